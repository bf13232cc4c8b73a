"""Probabilities from a checkpoint's own network, computed as the test pass of its training computed them.

Shapes: B images of H x W pixels, K classes.
"""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cifar10.devices import choose_device, computes_bf16, limit_threads, prepare_network
from cifar10.inference.description import LoadedModel, ModelDescription
from cifar10.runs.checkpoints import Checkpoint, load_checkpoint

_HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class TorchEngine:
    """A network on a device.

    Args:
        network: uint8 (B, 3, H, W) -> logits (B, K).
        device: Where to compute.
        precision: bf16 and fp16 compute in mixed precision, as training does; fp32 in full.
        channels_last: Lay weights out as (out, H, W, in) in memory.
        with_kernels: Let the network's layers compute with our own kernels on a CPU in float32.
    """

    def __init__(
        self,
        network: nn.Module,
        device: torch.device,
        precision: str = "fp32",
        channels_last: bool = False,
        with_kernels: bool = False,
    ) -> None:
        self.network = prepare_network(network.eval().to(device), channels_last, with_kernels)
        self.device = device
        self.precision = precision

    def describe(self) -> dict[str, str]:
        """Return what probabilities depend on beside the weights."""
        return {"engine": f"torch {torch.__version__}", "device": str(self.device), "precision": self.precision}

    def probabilities(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return class probabilities, (B, K), of `pixels`, uint8 (B, H, W, 3), RGB."""
        images = torch.from_numpy(pixels).to(self.device).permute(0, 3, 1, 2).contiguous()
        with torch.inference_mode(), self._autocast():
            probabilities: NDArray[np.float32] = self.network(images).float().softmax(dim=1).cpu().numpy()
        return probabilities

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=_HALVES[self.precision])


def load(path: Path, device: str = "auto", plain: bool = False) -> LoadedModel:
    """Load a checkpoint; the engine computes as in the test pass of its training.

    Args:
        path: A checkpoint.
        device: auto (a GPU if there is one), cpu, cuda or cuda:N.
        plain: Compute with PyTorch's own operators in float32, to compare others with.

    Raises:
        CheckpointError: The file is damaged or not a checkpoint, or the weights do not fit.
        UsageError: The device is not there.
    """
    chosen = choose_device(device)
    limit_threads()
    checkpoint = load_checkpoint(path)
    if plain:
        return LoadedModel(TorchEngine(checkpoint.network(), chosen), ModelDescription.of(checkpoint))
    precision, training = usable_precision(checkpoint, chosen), checkpoint.config.training
    engine = TorchEngine(checkpoint.network(), chosen, precision, training.channels_last, training.kernels)
    return LoadedModel(engine, ModelDescription.of(checkpoint))


def usable_precision(checkpoint: Checkpoint, device: torch.device) -> str:
    """Return the precision the checkpoint was tested in, or fp32 where `device` would only emulate it.

    Emulated all the same is bf16 that the configuration demanded by name: so it was tested, wherever that was.
    """
    if checkpoint.precision == "fp16":
        return "fp16" if device.type == "cuda" else "fp32"
    if checkpoint.precision == "bf16":
        demanded = checkpoint.config.training.precision == "bf16"
        return "bf16" if demanded or computes_bf16(device) else "fp32"
    return "fp32"
