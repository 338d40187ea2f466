"""Where the cohort is stored while it is used: on the training device if it fits, else on disk."""

import numpy as np
import torch
from torch import Tensor

LARGEST_SHARE = 0.4  # of the device's free memory; the rest is the model's

Stored = np.ndarray | Tensor  # (N, …, D, W, H); rows are taken out of both alike


def device_storage(stored: np.ndarray, device: torch.device, num_workers: int) -> Stored:
    """Copy the cohort to a GPU, so that batches are cut out there and nothing waits for data.

    Args:
        stored: Memmap, float16.
        device: Device of the training; a CPU reads the memmap through the kernel's page cache,
            which is as fast as memory of our own.
        num_workers: Worker processes of the loader; they need the memmap.

    Returns:
        A tensor on the device, or the memmap where that is no GPU, too small, or shared.
    """
    if device.type != "cuda" or num_workers:
        return stored
    free, _ = torch.cuda.mem_get_info(device)
    return stored if stored.nbytes > LARGEST_SHARE * free else copy_to(stored, device)


def copy_to(stored: np.ndarray, device: torch.device) -> Tensor:
    """Copy row by row, so that no second copy is needed in memory."""
    copy = torch.empty(stored.shape, dtype=torch.float16, device=device)
    for row, source in zip(copy, stored, strict=True):
        row.copy_(torch.from_numpy(np.array(source)))
    return copy


def windows(stored: Stored, shape: tuple[int, int, int]) -> Stored:
    """View stored volumes (N, 1, D, W, H) as all their windows, (N, D', W', H', *shape).

    Args:
        stored: Volumes, last axis first.
        shape: Voxels of a window in the stored order of axes.
    """
    volumes = stored[:, 0]
    if isinstance(volumes, Tensor):
        for axis, size in enumerate(shape, start=1):
            volumes = volumes.unfold(axis, size, 1)
        return volumes
    return np.lib.stride_tricks.sliding_window_view(volumes, shape, axis=(1, 2, 3))


def volume_tensor(stored: Stored) -> Tensor:
    """View stored voxels (..., D, W, H) as a tensor (..., W, H, D); copies nothing in memory."""
    if not isinstance(stored, Tensor):
        stored = torch.from_numpy(np.ascontiguousarray(stored))
    return stored.movedim(-3, -1)
