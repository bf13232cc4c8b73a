"""PyTorch's optimizers with weight decay on matrices and filters only, not on vectors."""

from typing import Annotated, Any

import torch
from torch import nn

from cifar10.optimizers.param_groups import param_groups_of
from cifar10.types import Fraction, Length, NonNegativeFloat, PositiveFloat

Betas = Annotated[list[Fraction], Length(2, 2)]


def sgd(
    network: nn.Module,
    lr: PositiveFloat,
    momentum: Fraction = 0.9,
    nesterov: bool = True,
    weight_decay: NonNegativeFloat = 5e-4,
) -> torch.optim.SGD:
    """Return stochastic gradient descent with momentum."""
    return torch.optim.SGD(
        _decayed_and_not(network, weight_decay), lr=lr, momentum=momentum, nesterov=nesterov and momentum > 0
    )


def adam(network: nn.Module, lr: PositiveFloat, betas: Betas = [0.9, 0.999]) -> torch.optim.Adam:  # noqa: B006
    """Return Adam (arXiv:1412.6980), without weight decay."""
    return torch.optim.Adam(_decayed_and_not(network, 0.0), lr=lr, betas=(betas[0], betas[1]))


def adamw(
    network: nn.Module,
    lr: PositiveFloat,
    betas: Betas = [0.9, 0.999],  # noqa: B006
    weight_decay: NonNegativeFloat = 0.05,
) -> torch.optim.AdamW:
    """Return Adam with decoupled weight decay (arXiv:1711.05101): a step shrinks weights by lr * weight_decay."""
    return torch.optim.AdamW(_decayed_and_not(network, weight_decay), lr=lr, betas=(betas[0], betas[1]))


def _decayed_and_not(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    roles = param_groups_of(network)
    groups = [
        {"params": [*roles.filters, *roles.head], "weight_decay": weight_decay},
        {"params": roles.vectors, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
