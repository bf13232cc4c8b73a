"""The bare `state_dict` of a network: a file that `torch.load` and `Module.load_state_dict` read."""

from pathlib import Path

import torch

from cifar10.formats.weights import engine_with_weights
from cifar10.inference.engines.pytorch import TorchEngine
from cifar10.runs.checkpoints import Checkpoint


class StateDictFormat:
    """Weights and buffers, by name."""

    file_name = "cifar_net.pth"

    def write(self, checkpoint: Checkpoint, path: Path) -> None:
        torch.save(checkpoint.weights, path)

    def read(self, path: Path, checkpoint: Checkpoint) -> TorchEngine:
        return engine_with_weights(checkpoint, torch.load(path, weights_only=True))
