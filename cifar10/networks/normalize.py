"""The first layer of every network: bytes in, centred floats out. An exported model takes what a decoder gives."""

import torch
from torch import Tensor, nn


class Normalize(nn.Module):
    """Scale pixels from 0..255 to zero mean and unit variance per channel.

    The statistics are buffers: they are measured once, on the training split, and travel with the weights.
    """

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((3, 1, 1), 127.5))
        self.register_buffer("std", torch.full((3, 1, 1), 64.0))

    def forward(self, images: Tensor) -> Tensor:  # uint8, or float in 0..255, (B, 3, H, W) -> float (B, 3, H, W)
        return (images.to(self.mean.dtype) - self.mean) / self.std

    @torch.no_grad()
    def calibrate(self, images: Tensor) -> None:
        """Measure mean and standard deviation per channel on `images`, uint8 (N, 3, H, W)."""
        # Exact in integers: the histogram of each channel has 256 bins, whatever N is.
        values = torch.arange(256, dtype=torch.float64)
        for channel in range(3):
            counts = torch.bincount(images[:, channel].flatten(), minlength=256).double().cpu()
            mean = (counts @ values) / counts.sum()
            variance = (counts @ (values - mean).square()) / counts.sum()
            self.mean[channel] = mean
            self.std[channel] = variance.sqrt().clamp(min=1.0)  # a blank channel must not divide by zero
