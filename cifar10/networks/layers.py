"""Layers that several networks use."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class Conv3x3(nn.Conv2d):
    """3 x 3 convolution with zero padding, without stride and bias: (B, C, H, W) -> (B, K, H, W).

    Args:
        channels_in: C.
        channels_out: K.
    """

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(channels_in, channels_out, kernel_size=3, padding=1, bias=False)


class ConvPool(Conv3x3):
    """The same convolution, followed by 2 x 2 max-pooling: (B, C, H, W) -> (B, K, H//2, W//2)."""

    def forward(self, features: Tensor) -> Tensor:
        return functional.max_pool2d(super().forward(features), 2)


class BatchNormReLUPool(nn.BatchNorm2d):
    """Batch normalisation, then ReLU, then 2 x 2 max-pooling: (B, C, H, W) -> (B, C, H//2, W//2).

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels)

    def forward(self, features: Tensor) -> Tensor:
        return functional.max_pool2d(functional.relu(super().forward(features)), 2)


class BatchNormSiLU(nn.Module):
    """Batch normalisation with a learnable shift and no scale, then SiLU. A shortcut is added between the two.

    Args:
        channels: C.
        momentum: Weight of the newest batch in the running statistics.
        eps: Added to the variance.
        shift_gain: Factor of the shift: a parameter behind a gain g trains g^2 times as fast.
    """

    running_mean: Tensor
    running_var: Tensor
    ones: Tensor

    def __init__(self, channels: int, momentum: float, eps: float, shift_gain: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.eps = eps
        self.shift_gain = shift_gain
        self.shift = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.register_buffer("ones", torch.ones(channels), persistent=False)

    def forward(self, features: Tensor, shortcut: Tensor | None = None) -> Tensor:  # (B, C, H, W), both -> the same
        normalized = functional.batch_norm(
            features,
            self.running_mean,
            self.running_var,
            weight=self.ones,  # without it, PyTorch 2.11 returns no gradient of the bias on GPUs, channels last
            bias=self.shift * self.shift_gain,
            training=self.training,
            momentum=self.momentum,
            eps=self.eps,
        )
        return functional.silu(normalized if shortcut is None else normalized + shortcut)
