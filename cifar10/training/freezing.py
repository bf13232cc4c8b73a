"""Freezing: only the head of a network is trained in the first part of training.

A new head starts from random weights. Its first gradients would destroy what the layers before it have learnt.
"""

from torch import nn

from cifar10.networks.heads import head_parameters


class Freezing:
    """Freezes all but the head of a network until a given progress of training.

    Frozen parameters get no gradient, so optimizers leave them and their moments alone. Normalisation layers before the
    head use their running statistics and do not update them. The state follows from the progress, so nothing of it is
    saved.

    Args:
        network: Its parameters that require a gradient are trained.
        num_classes: K, which identifies the head.
        until: Fraction of all optimizer steps.
    """

    def __init__(self, network: nn.Module, num_classes: int, until: float) -> None:
        head = set(head_parameters(network, num_classes))
        self.until = until
        self.frozen = [p for name, p in network.named_parameters() if p.requires_grad and name not in head]
        self.normalization = [module for module in network.modules() if hasattr(module, "running_var")]

    def set_progress(self, progress: float) -> None:
        """Freeze or unfreeze for a step at `progress` of all steps, in [0, 1). Call it before each forward pass."""
        is_frozen = progress < self.until
        for parameter in self.frozen:
            parameter.requires_grad_(not is_frozen)
        for module in self.normalization:
            module.training = not is_frozen
