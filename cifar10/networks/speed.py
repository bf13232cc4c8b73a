"""The default network: high CIFAR accuracy per second with six or nine convolutions.

The ideas are those of the CIFAR speedruns (Keller Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU",
https://arxiv.org/abs/2404.00498, and the work it builds on):

- the first layer is not trained: it decorrelates ("whitens") small patches, as measured on the training images;
- each further convolution starts as the identity on as many channels as it has inputs;
- normalisation has no learnable scale and a high momentum, since there are only some hundred steps;
- shifts, which are added after normalisation, train much faster than the other parameters.

The bias that those scripts train after whitening in the first epochs is left out: without it, no parameter before the
first 3 x 3 convolution is trained, and no gradient is needed there (measured in benchmarks/log.md).

Shapes: B images, K classes, widths (a, b, c). For 32-pixel images and 2-pixel patches:
(B, 3, 32, 32) -> whiten (B, 24, 31, 31) -> (B, a, 15, 15) -> (B, b, 7, 7) -> (B, c, 3, 3) -> (B, c) -> (B, K).
"""

from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional

from cifar10.networks.layers import BatchNormSiLU, Conv3x3, ConvPool
from cifar10.networks.normalize import Normalize
from cifar10.types import Length, PositiveInt, Range

_WHITEN_IMAGES = 5000  # enough for a 12 x 12 covariance
_WHITEN_EPSILON = 5e-4  # limits the amplification of noise in the weakest directions
_SHIFT_GAIN = 2000**0.5  # shifts train 2000 times as fast at any learning rate
_NORM_MOMENTUM = 0.4
_NORM_EPSILON = 1e-12


class SpeedNet(nn.Module):
    """Whitening, three groups of 3 x 3 convolutions, global max-pooling, linear head.

    Args:
        num_classes: K.
        image_size: H = W in pixels, at least 9 + whiten_size.
        widths: Channels of the three groups.
        whiten_size: Side of the whitened patches in pixels.
        depth: Convolutions in a group; 3 adds one beside a shortcut, for more accuracy at a higher cost.
    """

    def __init__(
        self,
        num_classes: PositiveInt,
        image_size: PositiveInt,
        widths: Annotated[list[PositiveInt], Length(3, 3)] = [64, 256, 256],  # noqa: B006
        whiten_size: Annotated[int, Range(ge=1, le=5)] = 2,
        depth: Annotated[int, Range(ge=2, le=3)] = 2,
    ) -> None:
        super().__init__()
        if image_size < 9 + whiten_size:
            raise ValueError(f"image_size={image_size} is too small: three halvings need {9 + whiten_size} pixels")
        whiten_width = 2 * 3 * whiten_size**2  # each direction and its opposite, so that the activation keeps both
        self.normalize = Normalize()
        self.whiten = nn.Conv2d(3, whiten_width, whiten_size, bias=False)
        self.whiten.weight.requires_grad = False
        sides = zip([whiten_width, *widths], widths, strict=False)
        self.groups = nn.Sequential(*(ConvolutionGroup(before, after, depth) for before, after in sides))
        self.head = nn.Linear(widths[-1], num_classes, bias=False)
        if not self.head.weight.is_meta:  # there, PyTorch would import SymPy for the shape of `std`
            with torch.no_grad():  # small: the first probabilities are nearly equal
                self.head.weight /= self.head.weight.std() * widths[-1]

    def forward(self, images: Tensor) -> Tensor:  # (B, 3, H, W) -> (B, K)
        logits: Tensor = self.head(self.pooled(self.groups(self.whitened(images))))
        return logits

    def whitened(self, images: Tensor) -> Tensor:  # (B, 3, H, W) -> (B, 24, H-1, W-1)
        """Return the output of the first layer, which is not trained."""
        return functional.silu(self.whiten(self.normalize(images)))

    def pooled(self, features: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C)
        """Return the largest of all pixels."""
        return _global_max(features)

    @torch.no_grad()
    def calibrate(self, images: Tensor) -> None:
        """Measure pixel statistics and whitening filters on the training images, uint8 (N, 3, H, W)."""
        self.normalize.calibrate(images)
        side = self.whiten.kernel_size[0]
        sample = self.normalize(images[:_WHITEN_IMAGES])
        patches = sample.unfold(2, side, 1).unfold(3, side, 1)  # (N, 3, H', W', side, side)
        patches = patches.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(0, 2).double()  # (N*H'*W', 3*side*side)
        covariance = (patches.T @ patches / len(patches)).cpu()  # small: faster there
        eigenvalues, eigenvectors = torch.linalg.eigh(covariance)
        # The signs of eigh depend on the BLAS build; fix them.
        signs = torch.sign(eigenvectors.gather(0, eigenvectors.abs().argmax(dim=0, keepdim=True)))
        filters = (eigenvectors * signs / (eigenvalues + _WHITEN_EPSILON).sqrt()).T.flip(0)  # strongest first
        filters = filters.reshape(-1, 3, side, side).to(self.whiten.weight)
        self.whiten.weight.copy_(torch.cat([filters, -filters]))


class ConvolutionGroup(nn.Module):
    """Convolve, halve, normalise, activate; convolve, normalise, activate.

    With depth 3: convolve and normalise once more, add the output of the first activation, and activate the sum.
    """

    def __init__(self, channels_in: int, channels_out: int, depth: int) -> None:
        super().__init__()
        self.convolve1 = _identity_at_first(ConvPool(channels_in, channels_out))
        self.norm1 = _batch_norm_silu(channels_out)
        self.convolve2 = _identity_at_first(Conv3x3(channels_out, channels_out))
        self.norm2 = _batch_norm_silu(channels_out)
        self.depth = depth
        if depth == 3:
            self.convolve3 = _identity_at_first(Conv3x3(channels_out, channels_out))
            self.norm3 = _batch_norm_silu(channels_out)

    def forward(self, features: Tensor) -> Tensor:  # (B, C_in, H, W) -> (B, C_out, H//2, W//2)
        halved = self.norm1(self.convolve1(features))
        features = self.norm2(self.convolve2(halved))
        return self.norm3(self.convolve3(features), shortcut=halved) if self.depth == 3 else features


def _global_max(features: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C)
    # Compiled code rounds less often to bfloat16: the gradient of amax may find no element that is the maximum, 0 / 0.
    return features.flatten(2).max(dim=2).values if torch.compiler.is_compiling() else features.amax(dim=(2, 3))


def _identity_at_first(layer: Conv3x3) -> Conv3x3:
    """Start as the identity on as many channels as `layer` has inputs, or outputs if those are fewer."""
    nn.init.dirac_(layer.weight[: min(layer.in_channels, layer.out_channels)].data)
    return layer


def _batch_norm_silu(channels: int) -> BatchNormSiLU:
    return BatchNormSiLU(channels, momentum=_NORM_MOMENTUM, eps=_NORM_EPSILON, shift_gain=_SHIFT_GAIN)
