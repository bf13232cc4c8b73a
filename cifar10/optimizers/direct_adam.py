"""Adam on a CPU with little work around its arithmetic, for networks whose steps take a millisecond."""

from typing import Any, cast

import torch
from torch import Tensor


class DirectAdam(torch.optim.Adam):
    """`torch.optim.Adam` with `fused=True`, bit by bit.

    PyTorch's step checks and groups all tensors anew each time. This one does so in the first step only, which makes
    the state. Parameters, state and the format of checkpoints are those of Adam.
    """

    def step(self, closure: Any = None) -> Any:
        """Update every parameter that has a gradient; return what `closure`, which computes it, returns."""
        if closure is not None or not all(map(_is_simple, self.param_groups)):
            return super().step(closure)
        bundles = [self._tensors_of(group) for group in self.param_groups]
        if None in bundles:
            return super().step()
        with torch.no_grad():
            for group, tensors in zip(self.param_groups, bundles, strict=True):
                if tensors is not None and tensors[0]:
                    _update(group, *tensors)
        return None

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop all gradients."""
        if not set_to_none:
            super().zero_grad(set_to_none)
            return
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def _tensors_of(self, group: dict[str, Any]) -> tuple[list[Tensor], ...] | None:
        """Return parameters, gradients, both averages and numbers of steps, where there is a gradient.

        None: some have no state.
        """
        parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
        states = [self.state[parameter] for parameter in parameters]
        if not all(states):
            return None
        gradients = [cast(Tensor, parameter.grad) for parameter in parameters]
        averages = ([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq", "step"))
        return parameters, gradients, *averages


def _is_simple(group: dict[str, Any]) -> bool:
    return group["fused"] and not (group["amsgrad"] or group["capturable"] or isinstance(group["lr"], Tensor))


def _update(
    group: dict[str, Any],
    parameters: list[Tensor],
    gradients: list[Tensor],
    means: list[Tensor],
    squares: list[Tensor],
    steps: list[Tensor],
) -> None:
    torch._foreach_add_(steps, 1)
    beta1, beta2 = group["betas"]
    torch._fused_adam_(
        parameters,
        gradients,
        means,
        squares,
        [],
        steps,
        lr=group["lr"],
        beta1=beta1,
        beta2=beta2,
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        amsgrad=False,
        maximize=group["maximize"],
    )
