"""Weights in the safetensors format, with class names and digests in the header."""

from pathlib import Path

from cifar10.formats.weights import engine_with_weights
from cifar10.inference.description import KEY, ModelDescription
from cifar10.inference.engines.pytorch import TorchEngine
from cifar10.runs.checkpoints import Checkpoint


class SafetensorsFormat:
    """Weights and buffers, by name."""

    file_name = "model.safetensors"

    def write(self, checkpoint: Checkpoint, path: Path) -> None:
        from safetensors.torch import save_file

        weights = {name: tensor.contiguous() for name, tensor in checkpoint.weights.items()}
        save_file(weights, path, metadata={"format": "pt", KEY: ModelDescription.of(checkpoint).model_dump_json()})

    def read(self, path: Path, checkpoint: Checkpoint) -> TorchEngine:
        from safetensors.torch import load_file

        return engine_with_weights(checkpoint, load_file(path))
