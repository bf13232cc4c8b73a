"""What formats share that hold weights only."""

import torch
from torch import Tensor

from cifar10.inference.engines.pytorch import TorchEngine
from cifar10.runs.checkpoints import Checkpoint


def engine_with_weights(checkpoint: Checkpoint, weights: dict[str, Tensor]) -> TorchEngine:
    """Return an engine for the network of `checkpoint` with other `weights`, in float32 on the CPU."""
    network = checkpoint.network()
    network.load_state_dict(weights)
    return TorchEngine(network, torch.device("cpu"))
