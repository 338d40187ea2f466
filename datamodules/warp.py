"""Rotate, scale, shift and mirror a batch of volumes, voxel for voxel as TorchIO's Affine does.

A copy is a map from its voxels to places in the volume, 3 × 4 numbers. On a CPU these places are
looked up by a loop in C, compiled within half a second when it is first needed; on other devices,
and where there is no C compiler, by torch's `grid_sample`.
"""

import ctypes
import logging
import shutil
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

# Axes: B = batch; W, H, D = voxels along R, A, S.

logger = logging.getLogger(__name__)

# Places first, 64 voxels at a time in vector registers; then two neighbours with every load, which
# is twice as fast as gathering eight.
KERNEL = r"""
#include <string.h>
#define CHUNK 64
typedef float pair __attribute__((vector_size(8)));
static inline pair load(const float *from) { pair both; memcpy(&both, from, 8); return both; }

/* out[d][w][h] = src at map * (d, w, h, 1), linear in between, `fill` outside of the volume;
   one number after the end of src is read as well */
void warp(const float *restrict src, float *restrict out, const double *map, float fill,
          int D, int W, int H) {
  int dx = D > 1 ? W * H : 0, dy = W > 1 ? H : 0;
  int last_i = D > 1 ? D - 2 : 0, last_j = W > 1 ? W - 2 : 0, last_k = H > 1 ? H - 2 : 0;
  for (int d = 0; d < D; d++) for (int w = 0; w < W; w++) {
    double x0 = map[0] * d + map[1] * w + map[3];
    double y0 = map[4] * d + map[5] * w + map[7];
    double z0 = map[8] * d + map[9] * w + map[11];
    float *row = out + ((long)d * W + w) * H;
    for (int start = 0; start < H; start += CHUNK) {
      int n = H - start < CHUNK ? H - start : CHUNK, at[CHUNK], inside[CHUNK];
      float fx[CHUNK], fy[CHUNK], fz[CHUNK];
      #pragma omp simd
      for (int c = 0; c < n; c++) {
        int h = start + c;
        double x = x0 + map[2] * h, y = y0 + map[6] * h, z = z0 + map[10] * h;
        inside[c] = (x >= -0.5) & (x < D - 0.5) & (y >= -0.5) & (y < W - 0.5)
                  & (z >= -0.5) & (z < H - 0.5);
        x = x < 0 ? 0 : x; x = x > D - 1 ? D - 1 : x;
        y = y < 0 ? 0 : y; y = y > W - 1 ? W - 1 : y;
        z = z < 0 ? 0 : z; z = z > H - 1 ? H - 1 : z;
        int i = (int)x, j = (int)y, k = (int)z;
        i = i > last_i ? last_i : i; j = j > last_j ? last_j : j; k = k > last_k ? last_k : k;
        fx[c] = (float)(x - i); fy[c] = (float)(y - j); fz[c] = (float)(z - k);
        at[c] = (i * W + j) * H + k;
      }
      for (int c = 0; c < n; c++) {
        const float *p = src + at[c];
        pair a = load(p), b = load(p + dy), e = load(p + dx), f = load(p + dx + dy);
        a += fy[c] * (b - a); e += fy[c] * (f - e); a += fx[c] * (e - a);
        row[start + c] = inside[c] ? a[0] + fz[c] * (a[1] - a[0]) : fill;
      }
    }
  }
}
"""


def rotation_matrix(degrees: np.ndarray) -> np.ndarray:
    """Turn TorchIO's angles in degrees about R, A, S, (3,), into a matrix in RAS, (3, 3)."""
    rotation = sitk.Euler3DTransform()
    rotation.SetRotation(*(np.radians(degrees) * (-1, -1, 1)))  # SimpleITK counts in LPS
    signs = np.array([-1, -1, 1])
    return signs[:, None] * np.array(rotation.GetMatrix()).reshape(3, 3) * signs


def voxel_map(
    scale: float,
    degrees: np.ndarray,
    shift_mm: np.ndarray,
    flips: np.ndarray,
    spacing_mm: np.ndarray,
    spatial_shape: Sequence[int],
) -> np.ndarray:
    """Map the voxels of a copy to places in the volume.

    Args:
        scale: Size of the copy, about the centre.
        degrees: Rotation about R, A, S, (3,).
        shift_mm: Shift along R, A, S, after the rotation, (3,).
        flips: Whether the copy is then mirrored along R, A, S, (3,).
        spacing_mm: Voxel size along R, A, S, (3,).
        spatial_shape: Voxels along R, A, S.

    Returns:
        Matrix and offset side by side, (3, 4).
    """
    size = np.array(spatial_shape)
    centre = (size - 1) / 2
    turn_back = rotation_matrix(degrees).T / spacing_mm[:, None]
    matrix = turn_back * spacing_mm / scale
    offset = centre - matrix @ centre - turn_back @ shift_mm
    offset += matrix @ np.where(flips, size - 1, 0)
    return np.column_stack([matrix * np.where(flips, -1, 1), offset])


def warp(
    volume: Float[Tensor, "b 1 w h d"], voxel_maps: Float[Tensor, "b 3 4"]
) -> Float[Tensor, "b 1 w h d"]:
    """Make a copy of each volume.

    Args:
        volume: Volumes of any float type, fastest with the last axis stored first.
        voxel_maps: Where each copy's voxels come from, see `voxel_map`.

    Returns:
        The copies, float32; what lies outside of a volume has its smallest value.
    """
    kernel = _compiled_kernel() if volume.device.type == "cpu" else None
    return (
        _warp_by_grid(volume, voxel_maps)
        if kernel is None
        else _by_loop(kernel, volume, voxel_maps)
    )


def _by_loop(kernel: Callable[..., Any], volume: Tensor, voxel_maps: Tensor) -> Tensor:
    order = [2, 0, 1]  # the stored order of the axes: D, W, H
    maps = voxel_maps[:, order][:, :, [*order, 3]].double().contiguous()
    stored = volume.movedim(-1, 2)
    copies = torch.empty(stored.shape)

    def fill_copy(place: int) -> None:
        source = torch.zeros(stored[place].numel() + 1)
        source[:-1].view(stored.shape[1:]).copy_(stored[place])
        pointers = (
            ctypes.c_void_p(each.data_ptr()) for each in (source, copies[place], maps[place])
        )
        kernel(*pointers, ctypes.c_float(float(source[:-1].min())), *stored.shape[2:])

    with ThreadPoolExecutor(torch.get_num_threads()) as threads:  # ctypes lets go of Python's lock
        list(threads.map(fill_copy, range(len(stored))))
    return copies.movedim(2, -1)


def _warp_by_grid(volume: Tensor, voxel_maps: Tensor) -> Tensor:
    sizes = volume.shape[2:]
    maps = voxel_maps.double()[..., None, None, None]  # (B, 3, 4, 1, 1, 1)
    w, h, d = torch.meshgrid(
        *(torch.arange(size, dtype=torch.float64, device=volume.device) for size in sizes),
        indexing="ij",
    )
    grid = []
    inside = torch.ones(1, dtype=torch.bool, device=volume.device)
    for axis, size in enumerate(sizes):
        row = maps[:, axis]
        place = row[:, 0] * w + row[:, 1] * h + row[:, 2] * d + row[:, 3]  # (B, W, H, D)
        inside = inside & (place >= -0.5) & (place < size - 0.5)
        grid.append(((2 * place + 1) / size - 1).float())
    copies = F.grid_sample(
        volume.float(), torch.stack(grid[::-1], -1), padding_mode="border", align_corners=False
    )
    smallest = volume.float().amin((1, 2, 3, 4), keepdim=True)
    return torch.where(inside[:, None], copies, smallest)


@cache
def _compiled_kernel() -> Callable[..., Any] | None:
    """The loop as a C function, None where it cannot be compiled."""
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    for flags in (["-march=native"], []):
        if compiler is None:
            break
        with TemporaryDirectory() as folder:
            source, library = Path(folder, "warp.c"), Path(folder, "warp.so")
            source.write_text(KERNEL)
            command = [compiler, "-O3", "-fopenmp-simd", "-shared", "-fPIC", *flags]
            try:
                subprocess.run(
                    [*command, str(source), "-o", str(library)], check=True, capture_output=True
                )
                function = ctypes.CDLL(str(library)).warp
            except (OSError, subprocess.CalledProcessError):
                continue
            function.restype = None
            return function
    logger.info("No C compiler was found: augmented copies take several times as long to make.")
    return None
