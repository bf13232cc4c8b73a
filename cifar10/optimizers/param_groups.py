"""Parameter groups: convolution filters, the head, and vectors."""

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class ParamGroups:
    """The learnable parameters of a network, each in exactly one list."""

    filters: list[nn.Parameter]
    """Matrices and convolution kernels, without the head's."""
    head: list[nn.Parameter]
    """The weight of the last linear layer, which computes the logits."""
    vectors: list[nn.Parameter]
    """Biases and normalisation: everything with fewer than two dimensions."""
    head_bias: nn.Parameter | None
    """The bias of the same layer, which is one of `vectors`; None if it has none."""


def param_groups_of(network: nn.Module) -> ParamGroups:
    """Sort the parameters of `network` that require a gradient."""
    linear_layers = [module for module in network.modules() if isinstance(module, nn.Linear)]
    head_weight = linear_layers[-1].weight if linear_layers else None
    learnable = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return ParamGroups(
        filters=[p for p in learnable if p.ndim >= 2 and p is not head_weight],
        head=[p for p in learnable if p is head_weight],
        vectors=[p for p in learnable if p.ndim < 2],
        head_bias=linear_layers[-1].bias if linear_layers else None,
    )
