"""The default network on a GPU: convolutions by the library, all between them by programs of `gpu_programs`.

Shapes: B images, C channels, feature maps of H x W, channels last.
"""

import functools
import importlib.util
from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import interpolate

from cifar10.networks.layers import BatchNormSiLU
from cifar10.networks.speed import ConvolutionGroup, SpeedNet

_PARTS = 512  # programs that sum rows; a GPU runs as many at once. A power of two
_END_CHANNELS = 4  # of a program that combines them
_TILES = {  # program -> elements of a tile, and warps: the fastest of those measured on an NVIDIA H200
    "moments": (4096, 4),
    "pooled moments": (1024, 8),
    "activate": (2048, 4),
    "gradient_sums": (1024, 8),
    "gradient": (2048, 4),
    "pooled gradient": (1024, 4),
}
_LARGEST_PATCH = 3  # pixels, side; the memory of a multiprocessor would not hold the filters for larger ones
_MULTIPLE = 32  # of the channels that the first layer returns: with 24, the next convolution takes 1.5 times as long


@functools.cache
def is_available() -> bool:
    """Whether there is a GPU with matrix units for TF32 (NVIDIA Ampere or later), and Triton to compile for it."""
    return (
        torch.cuda.is_available()
        and torch.version.hip is None
        and torch.cuda.get_device_capability() >= (8, 0)
        and importlib.util.find_spec("triton") is not None
    )


@functools.cache
def programs() -> ModuleType:
    """Import Triton's programs: they are needed on a GPU only, and the import takes a second."""
    from cifar10.kernels import gpu_programs

    return gpu_programs


class SpeedNetOnGpu(SpeedNet):
    """`SpeedNet` whose first layer normalises, convolves and activates in one program."""

    def whitened(self, images: Tensor) -> Tensor:
        if images.requires_grad or self.whiten.kernel_size[0] > _LARGEST_PATCH or not is_supported(images):
            return super().whitened(images)
        dtype = torch.get_autocast_dtype("cuda")
        return whiten(images, self.normalize.mean, self.normalize.std, self.whiten.weight, dtype)

    def pooled(self, features: Tensor) -> Tensor:
        if not is_supported(features):
            return super().pooled(features)
        result: Tensor = _GlobalMax.apply(features)
        return result


class ConvolutionGroupOnGpu(ConvolutionGroup):
    """`ConvolutionGroup` that pools, normalises, shifts and activates in one pass over the features each way."""

    def forward(self, features: Tensor) -> Tensor:
        has_backward = self.training or not torch.is_grad_enabled()  # there is none for the running statistics
        if not has_backward or not is_supported(features):
            return super().forward(features)
        halved = _normalized(_convolved(features, self.convolve1), self.norm1, pool=True)
        features = _normalized(_convolved(halved, self.convolve2), self.norm2, pool=False)
        return self.norm3(self.convolve3(features), shortcut=halved) if self.depth == 3 else features


def is_supported(tensor: Tensor) -> bool:
    """Whether programs can read `tensor`: on the current GPU, under autocast, while nothing is compiled.

    Without autocast, in float32, results would differ from PyTorch's by more than the rounding to that type.
    """
    return (
        tensor.is_cuda
        and tensor.device.index == torch.cuda.current_device()
        and torch.is_autocast_enabled("cuda")
        and not torch.compiler.is_compiling()
    )


def _convolved(features: Tensor, layer: nn.Conv2d) -> Tensor:
    """Return the convolution of `features` by `layer`, without pooling; channels beyond those of `layer` are zero."""
    weight, num_empty = layer.weight, features.shape[1] - layer.in_channels
    if num_empty:
        weight = functional.pad(weight, (0, 0, 0, 0, 0, num_empty)).contiguous(memory_format=torch.channels_last)
    result = functional.conv2d(features, weight, padding=1)
    return result.contiguous(memory_format=torch.channels_last)


def _normalized(features: Tensor, layer: BatchNormSiLU, pool: bool) -> Tensor:
    """Return `features`, pooled if `pool`, then normalised by `layer`, shifted and activated."""
    shift = layer.shift * layer.shift_gain
    if layer.training:
        running = layer.running_mean, layer.running_var
        result: Tensor = _NormalizeActivate.apply(features, shift, *running, layer.momentum, layer.eps, pool)
        return result
    scale = (layer.running_var + layer.eps).rsqrt()
    return activate(features, torch.stack([layer.running_mean, scale]), shift, pool)


class _NormalizeActivate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, features, shift, running_mean, running_var, momentum, eps, pool):  # type: ignore[no-untyped-def]
        rows, places, statistics = measure(features, running_mean, running_var, momentum, eps, pool)
        ctx.save_for_backward(rows, places, statistics, shift)
        ctx.shape = features.shape
        ctx.pool = pool
        return activate(rows, statistics, shift, pool=False)

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        rows, places, statistics, shift = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        grad_features, sums = gradients(rows, places, grad, statistics, shift, ctx.shape, ctx.pool)
        return grad_features, sums[0], None, None, None, None, None


class _GlobalMax(torch.autograd.Function):
    @staticmethod
    def forward(ctx, features):  # type: ignore[no-untyped-def]
        features = features.contiguous(memory_format=torch.channels_last)
        num, channels, height, width = features.shape
        out, places = features.new_empty((num, channels)), features.new_empty((num, channels), dtype=torch.int32)
        programs().global_max[(num,)](
            features, out, places, PIXELS=height * width, C=channels, TILE_C=_power_of_two(channels)
        )
        ctx.save_for_backward(places)
        ctx.shape = features.shape
        return out

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        (places,), (num, channels, height, width) = ctx.saved_tensors, ctx.shape
        out = _empty(ctx.shape, grad.dtype, grad.device)
        programs().global_max_gradient[(num,)](
            grad.contiguous(), places, out, PIXELS=height * width, C=channels, TILE_C=_power_of_two(channels)
        )
        return out


def cross_entropy(logits: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
    """Return the mean cross-entropy of `logits`, float32 (B, K), and `targets`, int64 (B,)."""
    result: Tensor = _CrossEntropy.apply(logits, targets, label_smoothing)
    return result


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, targets, label_smoothing):  # type: ignore[no-untyped-def]
        logits, (num, classes) = logits.contiguous(), logits.shape
        tile_k = _power_of_two(classes)
        tile = max(1, min(32, 4096 // tile_k))
        losses, grad = logits.new_empty(num), torch.empty_like(logits)
        programs().cross_entropy[(-(-num // tile),)](
            logits,
            targets,
            losses,
            grad,
            num,
            1 / num,
            label_smoothing,
            K=classes,
            TILE_K=_power_of_two(classes),
            TILE=tile,
        )
        ctx.save_for_backward(grad)
        return losses.mean()

    @staticmethod
    def backward(ctx, grad_loss):  # type: ignore[no-untyped-def]
        (grad,) = ctx.saved_tensors
        return grad * grad_loss, None, None


def resize(images: Tensor, pixels: int) -> Tensor:
    """Return square `images`, (B, 3, H, H), averaged to sides of `pixels`: float16, channels last."""
    num, side = len(images), images.shape[-1]
    out = _empty((num, 3, pixels, pixels), torch.float16, images.device)
    firsts, weights = _taps(side, pixels, images.device)
    total, tile = num * pixels**2, 256
    programs().resize[(-(-total // tile),)](
        images,
        firsts,
        weights,
        out,
        total,
        *images.stride(),
        SIDE=side,
        SIDE_OUT=pixels,
        TAPS=weights.shape[1],
        TILE=tile,
    )
    return out


@functools.cache
def _taps(side: int, pixels: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return for each of `pixels` rows of a resized image the first row that it averages, and the weights."""
    identity = torch.eye(side)[None, None]
    matrix = interpolate(identity, size=(pixels, side), mode="bilinear", antialias=True)[0, 0]  # (pixels, side)
    firsts = (matrix != 0).int().argmax(dim=1)
    taps = int((matrix != 0).sum(dim=1).max())
    padded = functional.pad(matrix, (0, taps))
    weights = torch.stack([padded[row, first : first + taps] for row, first in enumerate(firsts.tolist())])
    return firsts.int().to(device), weights.contiguous().to(device)


def whiten(images: Tensor, mean: Tensor, std: Tensor, filters: Tensor, dtype: torch.dtype) -> Tensor:
    """Return SiLU of the convolution of normalised `images` (B, 3, S, S) with `filters` (C, 3, k, k), as `dtype`."""
    (channels, _, size, _), (num, _, side, _) = filters.shape, images.shape
    side_out, tile = side - size + 1, 128
    channels_out = -(-channels // _MULTIPLE) * _MULTIPLE
    out = _empty((num, channels_out, side_out, side_out), dtype, images.device)
    num_rows = num * side_out**2
    programs().whiten[(-(-num_rows // tile),)](
        images, mean, std, filters.contiguous(), out, num_rows, *images.stride(), SIDE=side, SIZE=size,
        C=channels, C_OUT=channels_out, TILE_C=max(16, _power_of_two(channels_out)),
        TILE_K=max(16, _power_of_two(3 * size**2)), TILE=tile,
    )  # fmt: skip
    return out


def measure(
    features: Tensor, running_mean: Tensor, running_var: Tensor, momentum: float, eps: float, pool: bool
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Return the features, pooled if `pool`, which pixels were the largest, and mean and 1 / deviation, (2, C).

    Updates the running statistics.
    """
    num, channels, height, width = features.shape
    rows, places = features, None
    if pool:
        shape = num, channels, height // 2, width // 2
        rows = _empty(shape, features.dtype, features.device)
        places = _empty(shape, torch.uint8, features.device)
    parts = features.new_empty((2, _PARTS, channels), dtype=torch.float32)
    statistics = features.new_empty((2, channels), dtype=torch.float32)
    num_rows, tile_c = rows.numel() // channels, _power_of_two(channels)
    programs().moments[(_PARTS,)](
        features, rows, places, running_mean, parts, num_rows, PARTS=_PARTS, POOL=pool, H=height, W=width, C=channels,
        TILE_C=tile_c, **_tile("pooled moments" if pool else "moments", tile_c),
    )  # fmt: skip
    end_c = min(tile_c, _END_CHANNELS)
    programs().moments_end[(-(-channels // end_c),)](
        parts, statistics, running_mean, running_var, num_rows, momentum, eps, PARTS=_PARTS, C=channels, TILE_C=end_c
    )
    return rows, places, statistics


def activate(features: Tensor, statistics: Tensor, shift: Tensor, pool: bool) -> Tensor:
    """Return SiLU of normalised and shifted features, which are pooled before if `pool`."""
    num, channels, height, width = features.shape
    shape = (num, channels, height // 2, width // 2) if pool else features.shape
    out = _empty(shape, features.dtype, features.device)
    num_rows, tile_c = out.numel() // channels, _power_of_two(channels)
    settings = _tile("activate", tile_c)
    programs().activate[(-(-num_rows // settings["TILE"]),)](
        features, statistics, shift, out, num_rows, POOL=pool, H=height, W=width, C=channels, TILE_C=tile_c, **settings
    )
    return out


def gradients(
    rows: Tensor, places: Tensor | None, grad: Tensor, statistics: Tensor, shift: Tensor, shape: torch.Size, pool: bool
) -> tuple[Tensor, Tensor]:
    """Return the gradient of the features, of `shape`, and the sums (2, C): the first is the gradient of the shift."""
    num, channels, height, width = shape
    parts = rows.new_empty((2, _PARTS, channels), dtype=torch.float32)
    sums = rows.new_empty((2, channels), dtype=torch.float32)
    num_rows, tile_c = rows.numel() // channels, _power_of_two(channels)
    programs().gradient_sums[(_PARTS,)](
        rows, grad, statistics, shift, parts, num_rows, PARTS=_PARTS, C=channels, TILE_C=tile_c,
        **_tile("gradient_sums", tile_c),
    )  # fmt: skip
    end_c = min(tile_c, _END_CHANNELS)
    programs().gradient_sums_end[(-(-channels // end_c),)](parts, sums, PARTS=_PARTS, C=channels, TILE_C=end_c)
    out = _empty(shape, rows.dtype, rows.device)
    num_windows = num * -(-height // 2) * -(-width // 2) if pool else num_rows
    settings = _tile("pooled gradient" if pool else "gradient", tile_c)
    programs().gradient[(-(-num_windows // settings["TILE"]),)](
        rows, places, grad, statistics, shift, sums, out, num_windows, 1 / num_rows, POOL=pool, H=height, W=width,
        C=channels, TILE_C=tile_c, **settings,
    )  # fmt: skip
    return out, sums


def _empty(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.empty(shape, dtype=dtype, device=device, memory_format=torch.channels_last)


def _tile(program: str, tile_c: int) -> dict[str, int]:
    """Return the rows of a tile of `program`, and its warps."""
    elements, warps = _TILES[program]
    return {"TILE": max(1, elements // tile_c), "num_warps": warps}


def _power_of_two(number: int) -> int:
    """Return the lowest power of two that is not less."""
    return 1 << (number - 1).bit_length()
