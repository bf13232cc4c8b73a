"""Probabilities by our own kernels in bfloat16: the default network, on a CPU with matrix units (AMX).

Several times as fast as PyTorch and ONNX Runtime (benchmarks/results/engines_*.md). Probabilities differ by some
thousandths from those in float32.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cifar10.devices import fuse, limit_threads
from cifar10.errors import CheckpointError, UsageError
from cifar10.inference.description import LoadedModel, ModelDescription
from cifar10.inference.engines.pytorch import TorchEngine
from cifar10.runs.checkpoints import Checkpoint, load_checkpoint

_TOLERANCE = 0.05  # of a probability: several times what rounding to bfloat16 changes
_NUM_COMPARED = 8


class NativeEngine:
    """The network of `checkpoint`, compiled for this CPU.

    Raises:
        UsageError: There are no kernels for the network or the CPU.
        CheckpointError: They compute something else than PyTorch.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        network, size = checkpoint.network(), checkpoint.image_size
        self._network = fuse(network, size)
        images = np.random.default_rng(0).integers(0, 256, (_NUM_COMPARED, size, size, 3), np.uint8)
        expected = TorchEngine(network, torch.device("cpu")).probabilities(images)
        difference = float(np.abs(self.probabilities(images) - expected).max())
        if not difference <= _TOLERANCE:
            raise CheckpointError(
                f"{checkpoint.path}: engine=native computes other probabilities than PyTorch (by up to "
                f"{difference:.2g}); choose torch or onnx"
            )

    def probabilities(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return class probabilities, (B, K), of `pixels`, uint8 (B, S, S, 3), RGB, C-contiguous."""
        return self._network.probabilities(pixels)

    def describe(self) -> dict[str, str]:
        """Return what probabilities depend on beside the weights."""
        return {"engine": "native (AMX)", "device": "cpu", "precision": "bf16"}


def load(path: Path, device: str = "auto") -> LoadedModel:
    """Load a checkpoint, and compile its network for this CPU.

    Args:
        path: A checkpoint.
        device: auto or cpu.

    Raises:
        CheckpointError: The file is damaged or not a checkpoint, or the compiled network computes something else.
        UsageError: There are no kernels for the network or the CPU, or the device is another one.
    """
    if device not in ("auto", "cpu"):
        raise UsageError(f"device={device}: engine=native computes on the CPU; choose auto or cpu")
    limit_threads()
    checkpoint = load_checkpoint(path)
    return LoadedModel(NativeEngine(checkpoint), ModelDescription.of(checkpoint))
