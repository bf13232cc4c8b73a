"""The elementwise part of an optimizer step with orthogonal directions, on a GPU, in one pass each way.

Shapes: k filter banks of one shape, seen as matrices (M, N) in the order in which their numbers lie in memory.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from cifar10.kernels.gpu_layers import programs

_PARTS = 128  # programs that read a filter bank
_TILE = 1024


def begin(
    parameters: Sequence[Tensor], grads: Sequence[Tensor], buffers: Sequence[Tensor], momentum: float
) -> tuple[Tensor, Tensor]:
    """Update the momentum in `buffers`.

    Returns:
        The Nesterov directions divided by their norms, bfloat16 (k, M, N), and sums for `finish`.
    """
    first, num = parameters[0], len(parameters)
    number = first.numel()
    directions = torch.empty((num, len(first), number // len(first)), dtype=torch.bfloat16, device=first.device)
    parts = torch.empty((num, 2, _PARTS), device=first.device)
    rows = zip(parameters, grads, buffers, directions, parts, strict=True)
    for parameter, grad, buffer, direction, part in rows:
        programs().momentum_step[(_PARTS,)](
            grad, buffer, parameter, direction, part, number, momentum, PARTS=_PARTS, TILE=_TILE
        )
    programs().divide_by_norm[(-(-number // _TILE), num)](directions, parts, number, PARTS=_PARTS, TILE=_TILE)
    return directions, parts


def finish(parameters: Sequence[Tensor], steps: Tensor, parts: Tensor, rate: Tensor, normalize: bool) -> None:
    """Rescale each parameter to norm sqrt(M) if `normalize`, and subtract `rate` times its step, one of (k, M, N)."""
    for parameter, step, part in zip(parameters, steps.contiguous(), parts, strict=True):
        number = parameter.numel()
        programs().parameter_step[(-(-number // _TILE),)](
            parameter, step, part, rate, len(parameter) ** 0.5, number, NORMALIZE=normalize, PARTS=_PARTS, TILE=_TILE
        )
