"""What may change in a training volume, and the transforms that TorchIO makes of it."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torchio as tio
from jsonargparse import ArgumentParser


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
        transforms: Any other transforms of TorchIO that keep the shape: a list of `class_path` and
            `init_args`. With `elastic_mm` and `bias_field` they are done first, scan by scan.
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
        _ = self.by_torchio  # what cannot be built is refused at once

    @cached_property
    def by_torchio(self) -> list[tio.Transform]:
        """What only TorchIO does, scan by scan, before everything else."""
        steps: list[tio.Transform] = []
        if self.elastic_mm:
            steps.append(tio.RandomElasticDeformation(max_displacement=self.elastic_mm))
        if self.bias_field:
            steps.append(tio.RandomBiasField(self.bias_field))
        return [*steps, *map(_build, self.transforms)]


def _build(transform: dict[str, Any]) -> tio.Transform:
    """Build a transform from its class_path and init_args."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(tio.Transform, "transform", required=True)
    return parser.instantiate(parser.parse_object({"transform": transform})).transform


def draw_seed(*numbers: int) -> int:
    """Mix whole numbers to one seed."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
