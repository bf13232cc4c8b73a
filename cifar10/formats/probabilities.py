"""A network as other programs call it: pixels in, probabilities out."""

import torch
from torch import Tensor, nn


class Probabilities(nn.Module):
    """Decoded images -> class probabilities.

    Args:
        network: uint8 or float (B, 3, H, W) in 0..255 -> logits (B, K), in evaluation mode.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.eval()

    def forward(self, pixels: Tensor) -> Tensor:  # uint8 (B, H, W, 3), RGB -> float32 (B, K)
        logits: Tensor = self.network(self.images(pixels))
        return torch.softmax(logits, dim=1)

    def images(self, pixels: Tensor) -> Tensor:  # uint8 (B, H, W, 3) -> float32 (B, 3, H, W)
        return pixels.permute(0, 3, 1, 2).float()


def example(image_size: int) -> Tensor:
    """Return images to export with, uint8 (2, S, S, 3)."""
    return torch.zeros(2, image_size, image_size, 3, dtype=torch.uint8)


DYNAMIC = ({0: torch.export.Dim("batch", min=1)},)
"""Any number of images."""
