"""PyTorch's optimizers with weight decay on matrices and filters only, not on vectors."""

import functools
from typing import Annotated, Any

import torch
from torch import nn

from cifar10.optimizers import direct_adam
from cifar10.optimizers.param_groups import param_groups_of
from cifar10.types import Fraction, Length, NonNegativeFloat, PositiveFloat

Betas = Annotated[list[Fraction], Length(2, 2)]


def sgd(
    network: nn.Module,
    lr: PositiveFloat,
    momentum: Fraction = 0.9,
    nesterov: bool = True,
    weight_decay: NonNegativeFloat = 5e-4,
    body_lr: PositiveFloat | None = None,
) -> torch.optim.SGD:
    """Return stochastic gradient descent with momentum; `body_lr` is the rate of all but the last linear layer."""
    groups = _parameter_groups(network, weight_decay, body_lr)
    return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov and momentum > 0)


def adam(network: nn.Module, lr: PositiveFloat, betas: Betas = [0.9, 0.999]) -> torch.optim.Adam:  # noqa: B006
    """Return Adam (arXiv:1412.6980), without weight decay; on a CPU in one pass over all parameters."""
    is_on_cpu = all(parameter.device.type == "cpu" for parameter in network.parameters())
    groups, both = _parameter_groups(network, 0.0), (betas[0], betas[1])
    make = functools.partial(direct_adam.DirectAdam, fused=True) if is_on_cpu else torch.optim.Adam
    return make(groups, lr=lr, betas=both)


def adamw(
    network: nn.Module,
    lr: PositiveFloat,
    betas: Betas = [0.9, 0.999],  # noqa: B006
    weight_decay: NonNegativeFloat = 0.05,
    body_lr: PositiveFloat | None = None,
) -> torch.optim.AdamW:
    """Return Adam with decoupled weight decay (arXiv:1711.05101): a step shrinks weights by lr * weight_decay.

    `body_lr` is the rate of all but the last linear layer; None: `lr`.
    """
    groups = _parameter_groups(network, weight_decay, body_lr)
    return torch.optim.AdamW(groups, lr=lr, betas=(betas[0], betas[1]))


def _parameter_groups(network: nn.Module, weight_decay: float, body_lr: float | None = None) -> list[dict[str, Any]]:
    """Return groups with and without weight decay; with `body_lr` those of the last linear layer first."""
    roles = param_groups_of(network)
    if body_lr is None:
        parts: list[Any] = [([*roles.filters, *roles.head], roles.vectors, {})]
    else:
        body_vectors = [p for p in roles.vectors if p is not roles.head_bias]
        head_vectors = [p for p in roles.vectors if p is roles.head_bias]
        parts = [(roles.head, head_vectors, {}), (roles.filters, body_vectors, {"lr": body_lr})]
    groups = [
        {"params": params, "weight_decay": decay, **rate}
        for matrices, vectors, rate in parts
        for params, decay in ((matrices, weight_decay), (vectors, 0.0))
    ]
    return [group for group in groups if group["params"]]
