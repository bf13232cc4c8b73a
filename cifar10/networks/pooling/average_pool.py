"""Shrink by average pooling: each 2 x 2 pixels become their mean."""

from torch import nn

from cifar10.networks.pooling.cnn import PoolingCNN, Widths
from cifar10.types import PositiveInt


class AveragePoolCNN(PoolingCNN):
    """`PoolingCNN` with average pooling before each 3 x 3 convolution; arguments as there."""

    def __init__(
        self,
        num_classes: PositiveInt,
        image_size: PositiveInt,
        widths: Widths = [32, 32, 64],  # noqa: B006
    ) -> None:
        super().__init__(num_classes, image_size, widths, _make_shrinking)


def _make_shrinking(channels_in: int, channels_out: int) -> nn.Module:
    return nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=1))
