"""`torch.export`: the computation and its weights, for PyTorch without the code of this program."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cifar10.formats import ExactFormat, Source
from cifar10.formats.probabilities import DYNAMIC, Probabilities, example
from cifar10.inference.description import KEY, ModelDescription


class ExportedProgramFormat(ExactFormat):
    """uint8 (B, S, S, 3) -> probabilities (B, K)."""

    file_name = "model.pt2"

    def write(self, source: Source, path: Path) -> None:
        module = Probabilities(source.checkpoint.network())
        program = torch.export.export(module, (example(source.checkpoint.image_size),), dynamic_shapes=DYNAMIC)
        torch.export.save(program, path, extra_files={KEY: ModelDescription.of(source.checkpoint).model_dump_json()})

    def read(self, path: Path, source: Source) -> "_Program":
        return _Program(path)


class _Program:
    def __init__(self, path: Path) -> None:
        self.module = torch.export.load(path).module()

    @torch.inference_mode()
    def probabilities(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        found: NDArray[np.float32] = self.module(torch.from_numpy(pixels)).numpy()
        return found

    def describe(self) -> dict[str, str]:
        return {"engine": f"torch.export {torch.__version__}", "device": "cpu", "precision": "fp32"}
