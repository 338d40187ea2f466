"""A convolution, its max-pooling and perhaps a ReLU in one pass over the volumes, on a CPU.

The values are those of torch's layers, to rounding. What the pooling drops is never written,
and the way back goes through the maxima alone, an eighth of the places.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from typing_extensions import override

from kernels.compiled import call, compiled

# Axes: B = batch; F = filters; W, H, D = voxels along R, A, S.

PIECES = 16  # of a batch, each with a sum of its own, so that sums do not depend on threads
NO_MEMORY = "There is no memory left for a convolution: lower --data.batch_size or WORKERS."


def can_pool_at_once(
    volume: Float[Tensor, "b c w h d"], convolution: nn.Conv3d, pooling: nn.MaxPool3d
) -> bool:
    """Whether `pooled_convolution` takes the place of a convolution and its pooling.

    Args:
        volume: The input.
        convolution: Has a border of zeros, as all of an encoder's; only 3 × 3 × 3 taps serve, or
            one along axes of one voxel.
        pooling: What follows; rounds sizes up (`ceil_mode`), as all of an encoder's.
    """
    inputs, outputs = convolution.in_channels, convolution.out_channels
    size = pooling.kernel_size
    pools = size if isinstance(size, tuple) else (size,) * 3
    fits = (
        all(pool == 2 or n == 1 for pool, n in zip(pools, volume.shape[2:], strict=True))
        and all(
            taps == 3 or taps == n == 1
            for taps, n in zip(convolution.kernel_size, volume.shape[2:], strict=True)
        )
        and {volume.device.type, convolution.weight.device.type} == {"cpu"}
        and {volume.dtype, convolution.weight.dtype} == {torch.float32}
        and outputs % 8 == 0
        and (inputs % 4 == 0 or (inputs == 1 and not volume.requires_grad))
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )
    kernel = _kernel(inputs, outputs, relu=True) if fits else None
    if kernel is None:
        return False
    return torch.get_num_threads() == 1 or bool(kernel.runs_in_parallel())


def pooled_convolution(
    volume: Float[Tensor, "b c w h d"],
    weight: Float[Tensor, "f c taps_w taps_h taps_d"],
    bias: Float[Tensor, " f"],
    *,
    relu: bool = True,
) -> Float[Tensor, "b f w2 h2 d2"]:
    """Convolve with zeros around the volume, take the maxima of 2 × 2 × 2 voxels, and the ReLU.

    Args:
        volume: Where `can_pool_at_once` is true; odd sizes are rounded up, as with `ceil_mode`.
        weight: The convolution's weights, 3 or 1 along each axis.
        bias: Its bias.
        relu: Whether to set negative maxima to 0.

    Returns:
        The maxima; channels last in memory.

    Raises:
        MemoryError: If there is no room for the sums of the weights.
    """
    borders = [int(taps == 1) for taps in reversed(weight.shape[2:]) for _ in range(2)]
    if any(borders):
        weight = F.pad(weight, borders)  # taps on zeros; still faster than torch without them
    maxima: Tensor = _PooledConvolution.apply(volume, weight, bias, relu)
    return maxima


class _PooledConvolution(torch.autograd.Function):
    """The kernel's two functions, each on pieces of the batch."""

    @staticmethod
    @override
    def forward(ctx: Any, volume: Tensor, weight: Tensor, bias: Tensor, relu: bool) -> Tensor:
        num_volumes, inputs, *sizes = volume.shape
        pooled = [-(-size // 2) for size in sizes]
        padded = volume.new_zeros(num_volumes, *(2 * size + 2 for size in pooled), inputs)
        _inside(padded, sizes).copy_(volume.movedim(1, -1))
        taps = weight.movedim(1, -1).contiguous()
        maxima = volume.new_empty(num_volumes, *pooled, len(weight))
        places = torch.empty_like(maxima, dtype=torch.uint8)
        kernel = _kernel(inputs, len(weight), relu=relu)
        assert kernel is not None
        tensors = padded, taps, bias.contiguous(), maxima, places
        numbers = num_volumes, *sizes, torch.get_num_threads()
        if call(kernel.pooled_convolution, *tensors, *numbers):
            raise MemoryError(NO_MEMORY)
        ctx.sizes, ctx.relu = sizes, relu
        ctx.save_for_backward(padded, taps, places)
        return maxima.movedim(-1, 1)

    @staticmethod
    @once_differentiable
    @override
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None]:
        padded, taps, places = ctx.saved_tensors
        inputs, outputs = padded.shape[-1], len(taps)
        grad = grad.movedim(1, -1).contiguous()
        grad_padded = torch.zeros_like(padded if inputs > 1 else padded[..., :0])
        kernel = _kernel(inputs, outputs, relu=ctx.relu)
        assert kernel is not None
        num_pieces = min(len(padded), PIECES)
        grad_taps = taps.new_empty(num_pieces, *taps.shape)
        grad_bias = taps.new_empty(num_pieces, outputs)
        tensors = padded, taps, grad, places, grad_taps, grad_bias, grad_padded
        numbers = len(padded), num_pieces, *ctx.sizes, torch.get_num_threads()
        if call(kernel.pooled_convolution_back, *tensors, *numbers):
            raise MemoryError(NO_MEMORY)
        grad_volume = _inside(grad_padded, ctx.sizes).movedim(-1, 1) if inputs > 1 else None
        return grad_volume, grad_taps.sum(0).movedim(-1, 1), grad_bias.sum(0), None


def _kernel(inputs: int, outputs: int, *, relu: bool) -> Any:
    return compiled("pooled_convolution", INPUTS=inputs, OUTPUTS=outputs, RELU=int(relu))


def _inside(padded: Tensor, sizes: list[int]) -> Tensor:
    w, h, d = sizes
    return padded[:, 1 : w + 1, 1 : h + 1, 1 : d + 1]
