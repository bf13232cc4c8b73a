"""The simplest network: three convolutions and a linear layer."""

from torch import Tensor, nn

from cifar10.networks.layers import BatchNormReLUPool, Conv3x3
from cifar10.networks.normalize import Normalize
from cifar10.types import Fraction, PositiveInt


class SimpleCNN(nn.Module):
    """Three convolutions, each with max-pooling; global average pooling; dropout; a linear layer.

    Args:
        num_classes: K.
        image_size: H = W in pixels, at least 8.
        width: Channels of the first convolution; each further convolution doubles them.
        dropout: Fraction of the features that are set to zero at random in training.
    """

    def __init__(
        self, num_classes: PositiveInt, image_size: PositiveInt, width: PositiveInt = 32, dropout: Fraction = 0.1
    ) -> None:
        super().__init__()
        if image_size < 8:
            raise ValueError(f"image_size={image_size} is too small: three halvings need at least 8 pixels")
        self.normalize = Normalize()
        self.features = nn.Sequential(
            _convolve_and_halve(3, width),
            _convolve_and_halve(width, 2 * width),
            _convolve_and_halve(2 * width, 4 * width),
        )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(4 * width, num_classes)

    def calibrate(self, images: Tensor) -> None:
        """Take the pixel statistics from the training images, uint8 (N, 3, H, W)."""
        self.normalize.calibrate(images)

    def forward(self, images: Tensor) -> Tensor:  # (B, 3, H, W) -> (B, K)
        features = self.features(self.normalize(images))  # (B, 4*width, H/8, W/8)
        logits: Tensor = self.head(self.dropout(features.mean(dim=(2, 3))))
        return logits


def _convolve_and_halve(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(Conv3x3(channels_in, channels_out), BatchNormReLUPool(channels_out))
