"""Residual networks (He et al. 2015, https://arxiv.org/abs/1512.03385) with a stem for small images.

The published stem halves the image twice before the first block, to 8 x 8 of 32 x 32 pixels. Here the first convolution
is 3 x 3 with stride 1, without pooling.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from cifar10.networks.layers import Conv3x3
from cifar10.networks.normalize import Normalize
from cifar10.types import PositiveInt

_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}  # per stage; Table 1 of the paper


class ResNet(nn.Module):
    """A ResNet of 18, 34 (two 3 x 3 convolutions a block) or 50 layers (a bottleneck a block).

    Args:
        num_classes: K.
        image_size: H = W in pixels, at least 8.
        depth: Number of layers.
        width: Channels of the first stage; each of the three further stages doubles them.
    """

    def __init__(
        self,
        num_classes: PositiveInt,
        image_size: PositiveInt,
        depth: Literal[18, 34, 50] = 18,
        width: PositiveInt = 64,
    ) -> None:
        super().__init__()
        if image_size < 8:
            raise ValueError(f"image_size={image_size} is too small: three halvings need at least 8 pixels")
        self.normalize = Normalize()
        self.stem = nn.Sequential(_convolution(3, width, size=3), nn.BatchNorm2d(width), nn.ReLU(inplace=True))
        channels = width
        blocks = []
        for stage, num_blocks in enumerate(_BLOCKS[depth]):
            inner = width * 2**stage
            for index in range(num_blocks):
                stride = 2 if stage > 0 and index == 0 else 1
                basic = [(inner, 3, stride), (inner, 3, 1)]
                bottleneck = [(inner, 1, 1), (inner, 3, stride), (4 * inner, 1, 1)]
                convolutions = bottleneck if depth == 50 else basic
                blocks.append(ResidualBlock(channels, *convolutions))
                channels = convolutions[-1][0]
        self.stages = nn.Sequential(*blocks)
        self.head = nn.Linear(channels, num_classes)

    def calibrate(self, images: Tensor) -> None:
        """Take the pixel statistics from the training images, uint8 (N, 3, H, W)."""
        self.normalize.calibrate(images)

    def forward(self, images: Tensor) -> Tensor:  # (B, 3, H, W) -> (B, K)
        features = self.stages(self.stem(self.normalize(images)))  # (B, channels, H/8, W/8)
        logits: Tensor = self.head(features.mean(dim=(2, 3)))
        return logits


class ResidualBlock(nn.Module):
    """Convolutions beside a shortcut. Each is normalised; the last normalisation starts at zero, see arXiv:1706.02677.

    Args:
        channels_in: Channels of the input.
        convolutions: Channels of the output, kernel size and stride of each convolution.
    """

    def __init__(self, channels_in: int, *convolutions: tuple[int, int, int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels, total_stride = channels_in, 1
        for channels_out, size, stride in convolutions:
            norm = nn.BatchNorm2d(channels_out)
            layers += [_convolution(channels, channels_out, size, stride), norm, nn.ReLU(inplace=True)]
            channels, total_stride = channels_out, total_stride * stride
        nn.init.zeros_(norm.weight)
        self.residual = nn.Sequential(*layers[:-1])
        self.shortcut = _shortcut(channels_in, channels, total_stride)

    def forward(self, features: Tensor) -> Tensor:  # (B, C_in, H, W) -> (B, C_out, H/stride, W/stride)
        return torch.relu(self.residual(features) + self.shortcut(features))


def _convolution(channels_in: int, channels_out: int, size: int, stride: int = 1) -> nn.Conv2d:
    if size == 3 and stride == 1:
        layer: nn.Conv2d = Conv3x3(channels_in, channels_out)
    else:
        layer = nn.Conv2d(channels_in, channels_out, size, stride=stride, padding=size // 2, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer


def _shortcut(channels_in: int, channels_out: int, stride: int) -> nn.Module:
    if stride == 1 and channels_in == channels_out:
        return nn.Identity()
    return nn.Sequential(_convolution(channels_in, channels_out, size=1, stride=stride), nn.BatchNorm2d(channels_out))
