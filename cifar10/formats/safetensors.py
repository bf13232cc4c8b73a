"""Weights in the safetensors format, with class names and digests in the header."""

from pathlib import Path

from cifar10.formats import ExactFormat, Source
from cifar10.formats.weights import engine_with_weights
from cifar10.inference.description import KEY, ModelDescription
from cifar10.inference.engines.pytorch import TorchEngine


class SafetensorsFormat(ExactFormat):
    """Weights and buffers, by name."""

    file_name = "model.safetensors"

    def write(self, source: Source, path: Path) -> None:
        from safetensors.torch import save

        weights = {name: tensor.contiguous() for name, tensor in source.checkpoint.weights.items()}
        metadata = {"format": "pt", KEY: ModelDescription.of(source.checkpoint).model_dump_json()}
        path.write_bytes(save(weights, metadata))  # `save_file` would make a file that only its owner may read

    def read(self, path: Path, source: Source) -> TorchEngine:
        from safetensors.torch import load_file

        return engine_with_weights(source.checkpoint, load_file(path))
