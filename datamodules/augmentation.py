"""Label-preserving copies of a volume: TorchIO transforms as a function of a seed."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import SimpleITK as sitk
import torch
import torchio as tio
from jaxtyping import Float
from torch import Tensor

from datamodules.row_cache import cached_rows, digest
from datamodules.volumes import Volumes

# Axes: C = 1 channel; W, H, D = voxels along R, A, S.


@dataclass(frozen=True)
class Augmentation:
    """What may change in a training volume (MCTL §3.2, §4.2); 0 switches a change off.

    Args:
        mode: 'bank' draws `num_versions` copies of every scan once, shared by all folds; 'fresh'
            draws a new copy each time a scan is used; 'none' uses the scans as they are.
        num_versions: Copies of each scan in the bank.
        degrees: Largest rotation about each of the axes R, A, S, either way.
        translation_mm: Largest shift along each axis, either way.
        scale: Largest relative change of size, e.g. 0.1 for 90 to 110 %.
        keep_corners: Shrink a rotated volume until its new bounding box fits, so that no corner
            is cut off.
        flip_axes: Axes (0 = R, 1 = A, 2 = S) along which half of the copies are mirrored.
        noise_std: Largest standard deviation of added Gaussian noise, in units of the window.
        log_gamma: Largest exponent g of a gamma curve, intensity ** exp(±g).
        bias_field: Largest coefficient of a smooth bias field.
        elastic_mm: Largest displacement of an elastic deformation.
    """

    mode: Literal["bank", "fresh", "none"] = "bank"
    num_versions: int = 32
    degrees: float = 10.0
    translation_mm: float = 5.0
    scale: float = 0.0
    keep_corners: bool = True
    flip_axes: tuple[int, ...] = ()
    noise_std: float = 0.0
    log_gamma: float = 0.0
    bias_field: float = 0.0
    elastic_mm: float = 0.0

    def __post_init__(self) -> None:
        if self.mode == "bank" and self.num_versions < 1:
            raise ValueError(
                f"num_versions is {self.num_versions}: a bank needs at least 1 copy of each scan. "
                "For no augmentation set --data.augmentation.mode=none."
            )
        if not set(self.flip_axes) <= {0, 1, 2}:
            raise ValueError(f"flip_axes {self.flip_axes} must be 0 (R), 1 (A) or 2 (S).")

    def draw(self, volume_mm: np.ndarray) -> tio.Compose:
        """Draw one transform from torch's generator.

        Args:
            volume_mm: Size of the field of view in mm along R, A, S, (3,).
        """
        degrees = _uniform(self.degrees)
        shift = _uniform(self.translation_mm)
        size = 1 + float(_uniform(self.scale)[0])
        if self.keep_corners:
            size *= _corner_scale(degrees, volume_mm)
        steps: list[tio.Transform] = []
        if self.elastic_mm:
            steps.append(tio.RandomElasticDeformation(max_displacement=self.elastic_mm))
        steps.append(tio.Affine((size,) * 3, tuple(degrees), tuple(shift)))
        steps += [tio.RandomFlip(axis, flip_probability=0.5) for axis in self.flip_axes]
        if self.bias_field:
            steps.append(tio.RandomBiasField(self.bias_field))
        if self.log_gamma:
            steps.append(tio.RandomGamma(self.log_gamma))
        if self.noise_std:
            steps.append(tio.RandomNoise(std=(0, self.noise_std)))
        return tio.Compose(steps)


def augment(
    volume: Float[Tensor, "1 w h d"], spacing_mm: np.ndarray, augmentation: Augmentation, seed: int
) -> Float[Tensor, "1 w h d"]:
    """Make one augmented copy, the same for the same seed.

    Args:
        volume: A preprocessed volume.
        spacing_mm: Its voxel size in mm, (3,).
        augmentation: What may change.
        seed: Decides every random choice; torch's own generator is left as it was.
    """
    image = tio.ScalarImage(tensor=volume, affine=np.diag([*spacing_mm, 1.0]))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return augmentation.draw(spacing_mm * volume.shape[1:])(image).data


def load_bank(
    volumes: Volumes, augmentation: Augmentation, seed: int, cache_dir: Path
) -> np.memmap:
    """Open the bank of augmented versions, building what the cache does not hold yet.

    A version depends on the scan's content, the settings and the seed alone: all folds share it.

    Returns:
        Memmap, float16 of shape (N, num_versions, 1, D, W, H).
    """
    recipe = digest("bank", volumes.recipe, asdict(augmentation), seed)

    def build_row(position: int) -> tuple[np.ndarray, dict]:
        volume = volume_tensor(volumes.data[position].copy()).float()
        scan_seed = int(volumes.keys[position][:12], 16)
        versions = [
            augment(volume, volumes.spacings_mm[position], augmentation, draw_seed(*key))
            for key in ((seed, scan_seed, version) for version in range(augmentation.num_versions))
        ]
        return np.moveaxis(torch.stack(versions).numpy(), -1, 2), {}

    shape = (augmentation.num_versions, *volumes.data.shape[1:])
    bank, _ = cached_rows(
        cache_dir / f"bank-{recipe}", volumes.keys, shape, build_row, what="augmented versions"
    )
    return bank


def volume_tensor(stored: np.ndarray) -> Tensor:
    """View stored voxels (..., D, W, H) as a tensor (..., W, H, D); copies nothing in memory."""
    return torch.from_numpy(np.ascontiguousarray(stored)).movedim(-3, -1)


def draw_seed(*numbers: int) -> int:
    """Mix whole numbers to one seed."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _uniform(limit: float) -> np.ndarray:
    return ((torch.rand(3) * 2 - 1) * limit).double().numpy()


def _corner_scale(degrees: np.ndarray, volume_mm: np.ndarray) -> float:
    """Largest scale at which the rotated volume's bounding box fits into the old one."""
    rotation = sitk.Euler3DTransform()
    rotation.SetRotation(*(np.radians(degrees) * (-1, -1, 1)))  # TorchIO's RAS angles in LPS
    cosines = np.abs(np.array(rotation.GetMatrix()).reshape(3, 3))
    return float((volume_mm / (cosines @ volume_mm)).min())
