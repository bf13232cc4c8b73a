"""The bare `state_dict` of a network: a file that `torch.load` and `Module.load_state_dict` read."""

from pathlib import Path

import torch

from cifar10.formats import ExactFormat, Source
from cifar10.formats.weights import engine_with_weights
from cifar10.inference.engines.pytorch import TorchEngine


class StateDictFormat(ExactFormat):
    """Weights and buffers, by name."""

    file_name = "cifar_net.pth"

    def write(self, source: Source, path: Path) -> None:
        torch.save(source.checkpoint.weights, path)

    def read(self, path: Path, source: Source) -> TorchEngine:
        return engine_with_weights(source.checkpoint, torch.load(path, weights_only=True))
