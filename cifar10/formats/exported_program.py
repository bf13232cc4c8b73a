"""`torch.export`: the computation and its weights, for PyTorch without the code of this program."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cifar10.formats.probabilities import DYNAMIC, Probabilities, example
from cifar10.inference.description import KEY, ModelDescription
from cifar10.runs.checkpoints import Checkpoint


class ExportedProgramFormat:
    """uint8 (B, S, S, 3) -> probabilities (B, K)."""

    file_name = "model.pt2"

    def write(self, checkpoint: Checkpoint, path: Path) -> None:
        module = Probabilities(checkpoint.network())
        program = torch.export.export(module, (example(checkpoint.image_size),), dynamic_shapes=DYNAMIC)
        torch.export.save(program, path, extra_files={KEY: ModelDescription.of(checkpoint).model_dump_json()})

    def read(self, path: Path, checkpoint: Checkpoint) -> "_Program":
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
