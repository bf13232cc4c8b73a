"""A network with published weights, whoever publishes them. Importing this imports no torchvision."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from cifar10.networks.published import PixelNetwork

NO_WEIGHTS = "none"
"""Value of `weights` for a network with random weights."""


@dataclass(frozen=True)
class PublishedWeights:
    """Published weights of a network: their address, preprocessing and class names."""

    name: str
    """For messages: architecture and version."""
    url: str
    file_name: str
    """Under which it is kept."""
    sha256: str
    """The SHA-256 of the file, or its first digits; empty if it is not known."""
    class_names: tuple[str, ...]
    """In the order of the logits; empty if the names are not known."""
    num_classes: int
    image_size: int
    """S: height and width in pixels of the network's input."""
    resize_size: int
    """Pixels to which the short side of an image is resized, before its centre is cropped to S x S."""
    interpolation: Literal["bicubic", "bilinear"]
    mean: tuple[float, ...]
    """Of each channel, for pixels in [0, 1]."""
    std: tuple[float, ...]


class PretrainedNetwork(PixelNetwork):
    """A network with published weights, which it gets from `load_published`; before that they are random.

    Args:
        network: float (B, 3, S, S), normalised -> logits (B, K).
        published: Its published weights.
        weights: A file to use in their place; `none`: random weights; None: those that are published.
    """

    def __init__(self, network: nn.Module, published: PublishedWeights, weights: str | None) -> None:
        super().__init__(network)
        self.published = published
        self.weights = weights
        self.normalize.mean[:, 0, 0] = 255 * torch.tensor(published.mean)
        self.normalize.std[:, 0, 0] = 255 * torch.tensor(published.std)

    def calibrate(self, images: Tensor) -> None:
        """Keep the pixel statistics that the weights were trained with."""

    def load_published(self, state_dict: Mapping[str, Tensor]) -> None:
        """Load `state_dict`, as it is published; with another number of classes than that, all but the head.

        Raises:
            ValueError: It is of another network.
        """
        raise NotImplementedError
