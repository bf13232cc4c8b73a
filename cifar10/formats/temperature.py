"""Divide the logits of a network by a temperature, within its own weights.

The last layer is linear, so its weights and bias are divided. Every format and engine can compute that, and exactly.
"""

import dataclasses

import torch
from torch import nn

from cifar10.errors import UsageError
from cifar10.networks.heads import head_parameters
from cifar10.runs.checkpoints import Checkpoint

_NUM_COMPARED = 4
_TOLERANCE = 1e-4  # of a logit, relative to the largest one


def tempered(checkpoint: Checkpoint, temperature: float) -> Checkpoint:
    """Return a copy of `checkpoint` whose logits are those of the original divided by `temperature`.

    Raises:
        UsageError: The network's last layer is not linear in its weights.
    """
    network = checkpoint.network()
    names = head_parameters(network, checkpoint.num_classes)
    weights = dict(checkpoint.weights) | {name: checkpoint.weights[name] / temperature for name in names}
    copy = dataclasses.replace(checkpoint, weights=weights, temperature=temperature * checkpoint.temperature)
    if not _is_divided(network, copy.network(), checkpoint.image_size, temperature):
        raise UsageError(
            f"--temperature: {checkpoint.config.model.target} computes more behind its last linear layer, so its "
            "logits cannot be divided there; leave it out"
        )
    return copy


@torch.no_grad()
def _is_divided(network: nn.Module, divided: nn.Module, size: int, temperature: float) -> bool:
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (_NUM_COMPARED, 3, size, size), dtype=torch.uint8, generator=random)
    expected = network(images) / temperature
    return bool((divided(images) - expected).abs().max() <= _TOLERANCE * expected.abs().max().clamp(min=1.0))
