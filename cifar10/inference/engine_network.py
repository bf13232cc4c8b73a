"""An inference engine in the place of a network, so that it is tested in the same way.

Shapes: B images of S x S pixels, K classes.
"""

import numpy as np
import torch
from torch import Tensor, nn

from cifar10.inference.engines import Engine

_LEAST = 1e-30  # of a probability, so that its logarithm stays finite


class EngineNetwork(nn.Module):
    """Computes the logarithms of an engine's probabilities, whose softmax are the probabilities again."""

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self.engine = engine

    def forward(self, images: Tensor) -> Tensor:  # uint8 (B, 3, S, S) -> float32 (B, K)
        pixels = np.ascontiguousarray(images.permute(0, 2, 3, 1).cpu().numpy())
        return torch.from_numpy(self.engine.probabilities(pixels)).clamp(min=_LEAST).log().to(images.device)
