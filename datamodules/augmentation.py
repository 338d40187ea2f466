"""Label-preserving copies of a volume: TorchIO's transforms as a function of a seed."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
import torchio as tio
from jaxtyping import Float
from jsonargparse import ArgumentParser
from torch import Tensor

# Axes: C = 1 channel; W, H, D = voxels along R, A, S.


@dataclass(frozen=True)
class Augmentation:
    """What may change in a training volume (MCTL §3.2, §4.2); 0 switches a change off.

    Args:
        mode: 'copies' draws `num_versions` copies of every scan once, for all folds; 'fresh'
            draws a new copy each time a scan is used; 'none' uses the scans as they are.
        num_versions: Copies of each scan in mode 'copies'; the first is the scan as it is.
        degrees: Largest rotation about each of the axes R, A, S, either way.
        translation_mm: Largest shift along each axis, either way.
        scale: Largest relative change of size, e.g. 0.1 for 90 to 110 %.
        flip_axes: Axes (0 = R, 1 = A, 2 = S) along which half of the copies are mirrored.
        noise_std: Largest standard deviation of added Gaussian noise, in units of the window.
        log_gamma: Largest exponent g of a gamma curve, intensity ** exp(±g).
        bias_field: Largest coefficient of a smooth bias field.
        elastic_mm: Largest displacement of an elastic deformation.
        transforms: Any other transforms of TorchIO that keep the shape, done after the ones above:
            a list of `class_path` and `init_args`.
    """

    mode: Literal["copies", "fresh", "none"] = "copies"
    num_versions: int = 32
    degrees: float = 10.0
    translation_mm: float = 5.0
    scale: float = 0.0
    flip_axes: tuple[int, ...] = ()
    noise_std: float = 0.0
    log_gamma: float = 0.0
    bias_field: float = 0.0
    elastic_mm: float = 0.0
    transforms: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.mode == "copies" and self.num_versions < 1:
            raise ValueError(
                f"num_versions is {self.num_versions}; mode 'copies' needs at least 1. "
                "For no augmentation set --data.augmentation.mode=none."
            )
        if not set(self.flip_axes) <= {0, 1, 2}:
            raise ValueError(f"flip_axes {self.flip_axes} must be 0 (R), 1 (A) or 2 (S).")
        _ = self.named  # what cannot be built is refused at once

    @cached_property
    def named(self) -> list[tio.Transform]:
        """The transforms that are named by their class_path."""
        return [_build(each) for each in self.transforms]

    @property
    def by_torchio(self) -> bool:
        """Whether something is switched on that only TorchIO does, scan by scan."""
        return bool(self.elastic_mm or self.bias_field or self.transforms)

    def draw_affine(self, generator: torch.Generator) -> tuple[float, np.ndarray, np.ndarray]:
        """Draw scale, degrees and shift in mm.

        Args:
            generator: Where the random numbers come from.
        """
        degrees, shift, size = (
            ((torch.rand(3, generator=generator) * 2 - 1) * limit).double().numpy()
            for limit in (self.degrees, self.translation_mm, self.scale)
        )
        return 1 + float(size[0]), degrees, shift

    def draw(self) -> tio.Compose:
        """Draw one transform from torch's own generator."""
        scale, degrees, shift = self.draw_affine(torch.default_generator)
        steps: list[tio.Transform] = []
        if self.elastic_mm:
            steps.append(tio.RandomElasticDeformation(max_displacement=self.elastic_mm))
        steps.append(tio.Affine((scale,) * 3, tuple(degrees), tuple(shift)))
        steps += [tio.RandomFlip(axis, flip_probability=0.5) for axis in self.flip_axes]
        if self.bias_field:
            steps.append(tio.RandomBiasField(self.bias_field))
        if self.log_gamma:
            steps.append(tio.RandomGamma(self.log_gamma))
        if self.noise_std:
            steps.append(tio.RandomNoise(std=(0, self.noise_std)))
        return tio.Compose([*steps, *self.named])


def augment(
    volume: Float[Tensor, "1 w h d"], spacing_mm: np.ndarray, augmentation: Augmentation, seed: int
) -> Float[Tensor, "1 w h d"]:
    """Make one augmented copy with TorchIO alone, the same for the same seed.

    Args:
        volume: A preprocessed volume.
        spacing_mm: Its voxel size in mm, (3,).
        augmentation: What may change.
        seed: Decides every random choice; torch's own generator is left as it was.
    """
    image = tio.ScalarImage(tensor=volume, affine=np.diag([*spacing_mm, 1.0]))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        copy = augmentation.draw()(image).data
    if copy.shape != volume.shape:
        raise ValueError(
            f"The transforms make volumes of {tuple(copy.shape[1:])} voxels out of "
            f"{tuple(volume.shape[1:])}. Leave out of --data.augmentation.transforms those that "
            "change the shape."
        )
    return copy


def _build(transform: dict[str, Any]) -> tio.Transform:
    """Build a transform from its class_path and init_args."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(tio.Transform, "transform", required=True)
    return parser.instantiate(parser.parse_object({"transform": transform})).transform


def draw_seed(*numbers: int) -> int:
    """Mix whole numbers to one seed."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
