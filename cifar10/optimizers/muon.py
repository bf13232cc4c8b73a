"""Muon: momentum whose matrix is replaced by its nearest orthogonal one, so that every direction learns at one rate.

Keller Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024),
https://kellerjordan.github.io/posts/muon/. Filters are updated so; the head and the vectors by SGD with momentum, in
the same optimizer, because Lightning, schedules and checkpoints then have one thing to keep.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from cifar10.optimizers.roles import roles_of
from cifar10.ranges import Fraction, NonNegativeFloat, PositiveFloat

# Coefficients of the quintic p(x) = a x + b x^3 + c x^5, from the source above. A few rounds bring most singular values
# from (0, 1] to about 0.7 .. 1.2, which trains as well as exactly 1 and needs matrix products only.
_A, _B, _C = 3.4445, -4.7750, 2.0315
_ROUNDS = 3


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
        network: The module to train; see `roles_of` for what is a filter.
        lr: Rate of the filters: the spectral norm of a step.
        momentum: Of the filters' gradients (Nesterov).
        head_lr: Rate of the last linear layer.
        vector_lr: Rate of biases and normalisation.
        vector_momentum: Of the head's and the vectors' gradients (Nesterov).
        weight_decay: What the gradient of head and vectors gains as a part of their weights, over their rate: the same
            shrinking per step for both.
        normalize_filters: Rescale each filter bank to norm sqrt(number of filters) before a step. For networks that
            normalise after each convolution, where the scale of a filter bank means nothing but slows its learning.
    """
    roles = roles_of(network)
    plain = {"orthogonal": False, "momentum": vector_momentum, "normalize": False}
    groups = [
        {
            "params": roles.filters,
            "lr": lr,
            "momentum": momentum,
            "orthogonal": True,
            "normalize": normalize_filters,
            "weight_decay": 0.0,
        },
        {"params": roles.head, "lr": head_lr, "weight_decay": weight_decay / head_lr, **plain},
        {"params": roles.vectors, "lr": vector_lr, "weight_decay": weight_decay / vector_lr, **plain},
    ]
    return Muon([group for group in groups if group["params"]])


class Muon(torch.optim.Optimizer):
    """SGD with Nesterov momentum whose groups may ask for orthogonal steps. Made by `muon`."""

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        super().__init__(groups, defaults={})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient; return what `closure`, which computes it, returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return loss

    def _update(self, parameter: Tensor, group: dict[str, Any]) -> None:
        gradient = cast(Tensor, parameter.grad)
        if group["weight_decay"]:
            gradient = gradient.add(parameter, alpha=group["weight_decay"])
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        buffer = state["momentum_buffer"].mul_(group["momentum"]).add_(gradient)
        direction = gradient.add(buffer, alpha=group["momentum"])
        if group["normalize"]:
            parameter.mul_(len(parameter) ** 0.5 / parameter.norm())
        if group["orthogonal"]:
            direction = orthogonalize(direction.flatten(1)).view_as(parameter)
        parameter.add_(direction, alpha=-group["lr"])


def orthogonalize(matrix: Tensor, rounds: int = _ROUNDS) -> Tensor:
    """Return roughly U V^T for matrix = U S V^T: the same directions, all with a singular value near 1.

    Args:
        matrix: float (M, N).
        rounds: Newton-Schulz iterations.
    """
    wide = matrix.shape[0] <= matrix.shape[1]
    x: Tensor = matrix if wide else matrix.T  # (m, n) with m <= n: the products below are (m, m)
    x = x / (x.norm() + 1e-7)  # singular values into (0, 1]
    for _ in range(rounds):
        gram = x @ x.T
        x = _A * x + (_B * gram + _C * gram @ gram) @ x
    return x if wide else x.T
