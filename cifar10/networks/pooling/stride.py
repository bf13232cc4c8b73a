"""Shrink by a convolution with stride 2: it is computed for every second row and column only."""

from torch import nn

from cifar10.networks.pooling.cnn import PoolingCNN, Widths
from cifar10.types import PositiveInt


class StrideCNN(PoolingCNN):
    """`PoolingCNN` whose convolutions have stride 2; arguments as there."""

    def __init__(
        self,
        num_classes: PositiveInt,
        image_size: PositiveInt,
        widths: Widths = [32, 32, 64],  # noqa: B006
    ) -> None:
        super().__init__(num_classes, image_size, widths, _make_shrinking)


def _make_shrinking(channels_in: int, channels_out: int) -> nn.Module:
    return nn.Conv2d(channels_in, channels_out, kernel_size=3, stride=2, padding=1)
