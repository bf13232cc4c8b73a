"""Muon: momentum whose matrix is replaced by the nearest orthogonal matrix, so that all directions get the same rate.

Keller Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024),
https://kellerjordan.github.io/posts/muon/. It updates filters; SGD with momentum updates the head and the
vectors, in the same optimizer, so that Lightning, schedules and checkpoints handle one optimizer.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from cifar10.optimizers.param_groups import param_groups_of
from cifar10.types import Fraction, NonNegativeFloat, PositiveFloat

# Coefficients of the quintic p(x) = a x + b x^3 + c x^5, from the source above. A few rounds bring most singular values
# from (0, 1] to about 0.7 .. 1.2, which trains as well as exactly 1 and needs matrix products only.
_A, _B, _C = 3.4445, -4.7750, 2.0315
_ROUNDS = 3
_LONG = 2  # times as long as wide: from there on, `_by_gram` is faster


def muon(
    network: nn.Module,
    lr: PositiveFloat,
    momentum: Fraction = 0.6,
    head_lr: PositiveFloat = 0.02,
    vector_lr: PositiveFloat = 0.053,
    vector_momentum: Fraction = 0.85,
    weight_decay: NonNegativeFloat = 0.004,
    normalize_filters: bool = True,
) -> "Muon":
    """Return Muon for the filters of `network` and SGD for its head and vectors.

    Args:
        network: The module to train; `param_groups_of` defines filters, head and vectors.
        lr: Learning rate of the filters: the spectral norm of a step.
        momentum: Nesterov momentum of the filters.
        head_lr: Learning rate of the last linear layer.
        vector_lr: Learning rate of biases and normalisation.
        vector_momentum: Nesterov momentum of the head and the vectors.
        weight_decay: Weight decay of head and vectors, divided by their learning rate, so that both shrink equally.
        normalize_filters: Rescale each filter bank to norm sqrt(number of filters) before a step. For networks that
            normalise after each convolution, where the scale of a filter bank has no effect but slows its training.
    """
    roles = param_groups_of(network)
    orthogonal = {"orthogonal": True, "momentum": momentum, "normalize": normalize_filters}
    plain = {"orthogonal": False, "momentum": vector_momentum, "normalize": False}
    groups = [
        {"params": roles.filters, "lr": lr, "weight_decay": 0.0, **orthogonal},
        {"params": roles.head, "lr": head_lr, "weight_decay": weight_decay / head_lr, **plain},
        {"params": roles.vectors, "lr": vector_lr, "weight_decay": weight_decay / vector_lr, **plain},
    ]
    return Muon([group for group in groups if group["params"]])


class Programs(Protocol):
    """The elementwise part of orthogonal steps of k matrices (M, N), in one pass before and one after the products."""

    def begin(
        self, parameters: Sequence[Tensor], grads: Sequence[Tensor], buffers: Sequence[Tensor], momentum: float
    ) -> tuple[Tensor, Tensor]:
        """Update the momentum; return directions divided by their norms, bfloat16 (k, M, N), and sums for `finish`."""

    def finish(self, parameters: Sequence[Tensor], steps: Tensor, parts: Tensor, rate: Tensor, normalize: bool) -> None:
        """Rescale each parameter to norm sqrt(M) if `normalize`, and subtract `rate` times its step."""


class Muon(torch.optim.Optimizer):
    """SGD with Nesterov momentum, and orthogonal steps in some parameter groups. Created by `muon`.

    All parameters of a group are updated in one call, without synchronisation with the device.
    """

    is_capturable = True
    """CUDA graphs can hold its steps. Learning rates may be tensors on the device."""
    programs: "Programs | None" = None
    """Set from outside on a GPU: used for orthogonal steps whose rate is a tensor."""

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        super().__init__(groups, defaults={})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient; return what `closure`, which computes it, returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        _run_all([partial(self._update, parameters, group) for parameters, group in self._bundles()])
        return loss

    def _bundles(self) -> Iterator[tuple[list[Tensor], dict[str, Any]]]:
        """Yield the parameters that are updated together, which have gradients, and their group."""
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if group["orthogonal"]:  # on a GPU those of one shape, on a CPU all
                members: dict[torch.Size | None, list[Tensor]] = defaultdict(list)
                for parameter in parameters:
                    members[parameter.shape if parameter.is_cuda else None].append(parameter)
                yield from ((bundle, group) for bundle in members.values())
            elif parameters:
                yield parameters, group

    def _update(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        if self.programs is not None and self._fits_programs(parameters, group):
            self._update_by_programs(self.programs, parameters, group)
            return
        directions = self._directions(parameters, group)
        jobs: list[Callable[[], None]] = []
        if group["orthogonal"]:
            jobs += orthogonal_steps(parameters, directions)
        if group["normalize"]:
            jobs.append(partial(_normalize, parameters))
        _run_all(jobs)
        torch._foreach_mul_(directions, -group["lr"])  # not `alpha` below: it would synchronise if the rate is a tensor
        torch._foreach_add_(parameters, directions)

    def _fits_programs(self, parameters: list[Tensor], group: dict[str, Any]) -> bool:
        """Whether these are float32 matrices that are laid out alike in memory, and the rate is on the device."""
        states = [self.state[parameter].get("momentum_buffer", parameter) for parameter in parameters]
        return (
            group["orthogonal"]
            and not group["weight_decay"]
            and isinstance(group["lr"], Tensor)
            and all(parameter.dtype == torch.float32 for parameter in parameters)
            and all(state.stride() == parameter.stride() for state, parameter in zip(states, parameters, strict=True))
        )

    def _update_by_programs(self, programs: Programs, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """Do the same to parameters of one shape."""
        gradients = [_laid_out_like(cast(Tensor, parameter.grad), parameter) for parameter in parameters]
        buffers = self._buffers(parameters, gradients)
        directions, sums = programs.begin(parameters, gradients, buffers, group["momentum"])
        wide = directions.shape[1] <= directions.shape[2]
        steps = _by_rounds(directions, _ROUNDS) if wide else _by_rounds(directions.mT, _ROUNDS).mT
        programs.finish(parameters, steps, sums, group["lr"], group["normalize"])

    def _buffers(self, parameters: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
        """Return the momentum of each parameter, which starts at zero."""
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if "momentum_buffer" not in self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(gradient)
        return [self.state[parameter]["momentum_buffer"] for parameter in parameters]

    def _directions(self, parameters: list[Tensor], group: dict[str, Any]) -> list[Tensor]:
        """Return each gradient with weight decay and Nesterov momentum, and update the momentum."""
        gradients = [cast(Tensor, parameter.grad) for parameter in parameters]
        if group["weight_decay"]:
            gradients = list(torch._foreach_add(gradients, parameters, alpha=group["weight_decay"]))
        buffers = self._buffers(parameters, gradients)
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_add_(buffers, gradients)
        return list(torch._foreach_add(gradients, buffers, alpha=group["momentum"]))


def orthogonal_steps(parameters: list[Tensor], directions: list[Tensor]) -> list[Callable[[], None]]:
    """Return jobs that orthogonalise some of `directions` each, in place; each is laid out like its parameter then.

    A GPU computes matrices of one shape together, and in bfloat16, as the source does. A CPU computes one at a time, in
    the type of the directions: there, a product of three matrices takes 1.2 times as long as three products of one.
    """
    matrices = [_matrix(direction, like) for direction, like in zip(directions, parameters, strict=True)]

    def orthogonalize_together(indices: list[int]) -> None:
        batch = torch.stack([matrices[index] for index in indices])  # (k, M, N)
        levelled = orthogonalize(batch.bfloat16() if batch.is_cuda else batch).to(batch.dtype)
        for index, step in zip(indices, levelled, strict=True):
            directions[index] = _filters(step, parameters[index])

    return [partial(orthogonalize_together, indices) for indices in _together(matrices)]


def _normalize(parameters: list[Tensor]) -> None:
    """Rescale each filter bank to norm sqrt(number of filters)."""
    norms = torch._foreach_norm(parameters)
    scales = [len(parameter) ** 0.5 / norm for parameter, norm in zip(parameters, norms, strict=True)]
    torch._foreach_mul_(parameters, scales)


def _run_all(jobs: Sequence[Callable[[], None]]) -> None:
    """Run independent `jobs`: one after the other, or as branches of the CUDA graph that is being captured.

    The matrices are small: one job takes a fraction of a GPU.
    """
    if len(jobs) < 2 or not (torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()):
        for job in jobs:
            job()
        return
    here = torch.cuda.current_stream()
    branches = [torch.cuda.Stream() for _ in jobs]
    for branch, job in zip(branches, jobs, strict=True):
        branch.wait_stream(here)
        with torch.cuda.stream(branch):
            job()
    for branch in branches:
        here.wait_stream(branch)


def _together(matrices: list[Tensor]) -> list[list[int]]:
    """Return the indices of matrices to compute together: on a GPU those of one shape, on a CPU each one alone."""
    members: dict[torch.Size | int, list[int]] = defaultdict(list)
    for index, matrix in enumerate(matrices):
        members[matrix.shape if matrix.is_cuda else index].append(index)
    return list(members.values())


def _matrix(direction: Tensor, like: Tensor) -> Tensor:
    """Return `direction` with one row per filter, (M, N); orthogonalising commutes with the order of the columns."""
    return direction.permute(0, 2, 3, 1).flatten(1) if _is_channels_last(like) else direction.flatten(1)


def _filters(matrix: Tensor, like: Tensor) -> Tensor:
    """Undo `_matrix`."""
    if not _is_channels_last(like):
        return matrix.reshape(like.shape)
    out, channels, height, width = like.shape
    return matrix.reshape(out, height, width, channels).permute(0, 3, 1, 2)


def _laid_out_like(gradient: Tensor, parameter: Tensor) -> Tensor:
    """Return `gradient` with its numbers in memory in the order of those of `parameter`."""
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)


def _is_channels_last(parameter: Tensor) -> bool:
    return parameter.ndim == 4 and not parameter.is_contiguous()


def orthogonalize(matrices: Tensor, rounds: int = _ROUNDS) -> Tensor:
    """Return approximately U V^T for each matrix = U S V^T: the same directions, with singular values near 1.

    Args:
        matrices: float (k, M, N).
        rounds: Newton-Schulz iterations.
    """
    wide = matrices.shape[1] <= matrices.shape[2]
    x = matrices if wide else matrices.mT  # (k, m, n) with m <= n: the products below are (k, m, m)
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)  # singular values into (0, 1]
    is_precise = x.dtype in (torch.float32, torch.float64)
    x = _by_gram(x, rounds) if is_precise and x.shape[2] >= _LONG * x.shape[1] else _by_rounds(x, rounds)
    return x if wide else x.mT


def _by_rounds(x: Tensor, rounds: int) -> Tensor:
    """Apply x -> a x + (b G + c G^2) x with G = x x^T `rounds` times."""
    for _ in range(rounds):
        gram = torch.bmm(x, x.mT)
        polynomial = torch.baddbmm(gram, gram, gram, beta=_B, alpha=_C)  # b G + c G^2
        x = torch.baddbmm(x, polynomial, x, beta=_A)
    return x


def _by_gram(x: Tensor, rounds: int) -> Tensor:
    """Return the result of `_by_rounds`, with two products of x's length instead of two per round.

    Each round multiplies x from the left by P = a I + b G + c G^2, which turns G into P G P; all of these commute. This
    takes a few more products of square matrices; in float32 the rounding error is no larger.
    """
    gram, product = torch.bmm(x, x.mT), None
    for number in range(rounds):
        polynomial = torch.baddbmm(gram, gram, gram, beta=_B, alpha=_C)
        polynomial.diagonal(dim1=1, dim2=2).add_(_A)
        product = polynomial if product is None else torch.bmm(polynomial, product)
        if number + 1 < rounds:
            gram = torch.bmm(polynomial, torch.bmm(polynomial, gram))
    return x if product is None else torch.bmm(product, x)
