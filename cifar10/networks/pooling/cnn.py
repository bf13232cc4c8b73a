"""What the versions have in common: a 5 x 5 convolution, two stages that halve the map, and a linear layer.

A stage halves height and width and applies a 3 x 3 convolution to the result, whichever way it halves. So all versions
have the same weights, and the same multiplications: pooling adds only comparisons or additions.

Shapes: B images, K classes, widths (a, b, c). For 32-pixel images:
(B, 3, 32, 32) -> (B, a, 16, 16) -> (B, b, 8, 8) -> (B, c, 4, 4) -> (B, 16 c) -> (B, K).
"""

from collections.abc import Callable
from typing import Annotated

from torch import Tensor, nn

from cifar10.networks.normalize import Normalize
from cifar10.types import Length, PositiveInt

Widths = Annotated[list[PositiveInt], Length(3, 3)]
"""Channels of the three convolutions."""
_SMALLEST = 8  # pixels, which three halvings leave one of


class PoolingCNN(nn.Module):
    """A convolution with stride 2, two stages that halve the map, and a linear layer.

    Args:
        num_outputs: K.
        image_size: H = W in pixels, a multiple of 8.
        widths: Channels of the three convolutions.
        make_shrinking: (channels in, channels out) -> a 3 x 3 convolution with bias that also halves the map,
            (B, C, H, W) -> (B, K, H/2, W/2). Its convolution is made last.
    """

    def __init__(
        self, num_outputs: int, image_size: int, widths: list[int], make_shrinking: Callable[[int, int], nn.Module]
    ) -> None:
        super().__init__()
        if image_size % _SMALLEST:
            raise ValueError(f"image_size={image_size}: this network needs a multiple of {_SMALLEST} pixels")
        first, second, third = widths
        self.normalize = Normalize()
        self.features = nn.Sequential(
            nn.Conv2d(3, first, kernel_size=5, stride=2, padding=2),
            nn.ReLU(),
            make_shrinking(first, second),
            nn.ReLU(),
            make_shrinking(second, third),
            nn.ReLU(),
        )
        self.head = nn.Linear(third * (image_size // _SMALLEST) ** 2, num_outputs)

    def calibrate(self, images: Tensor) -> None:
        """Take the pixel statistics from the training images, uint8 (N, 3, H, W)."""
        self.normalize.calibrate(images)

    def forward(self, images: Tensor) -> Tensor:  # (B, 3, H, W) -> (B, K)
        logits: Tensor = self.head(self.features(self.normalize(images)).flatten(1))
        return logits
