"""Grad-CAM where the answer is known, and on every network that can be built."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from cifar10.analysis.grad_cam import grad_cam, last_feature_map, overlay
from cifar10.networks.published import with_pixel_input
from cifar10.networks.resnet import ResNet
from cifar10.networks.simple_cnn import SimpleCNN
from cifar10.networks.speed import SpeedNet


class Averaging(nn.Module):
    """Class k is the mean of channel k, minus twice the mean of channel 2."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Identity()
        self.head = nn.Linear(3, 2, bias=False)
        self.head.weight.data = torch.tensor([[1.0, 0.0, -2.0], [0.0, 1.0, -2.0]])

    def forward(self, images: Tensor) -> Tensor:
        features = self.features(images.float() / 255)
        logits: Tensor = self.head(features.mean(dim=(2, 3)))
        return logits


def test_the_map_is_where_the_channel_of_the_class_is_bright() -> None:
    images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    images[:, 0, 1:3, 1:3] = 255  # red speaks for class 0
    images[:, 1, 5:7, 5:7] = 102  # green for class 1
    images[:, 2, 1, 1] = 255  # blue against both
    network = Averaging().eval()
    layer = last_feature_map(network, images)
    assert layer is network.features
    red, green = grad_cam(network, layer, images, [0, 1])
    expected = np.zeros((8, 8), np.float32)
    expected[1:3, 1:3] = 1
    expected[1, 1] = 0  # 1 - 2 is below 0, and cut off
    np.testing.assert_allclose(red, expected, atol=1e-6)
    assert green[5:7, 5:7].min() == pytest.approx(1) and green.sum() == pytest.approx(4)  # relative to its own peak


def test_weights_and_gradients_of_the_network_are_not_touched() -> None:
    network = Averaging().eval().requires_grad_(False)
    images = torch.randint(0, 256, (1, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    grad_cam(network, network.features, images, [0])
    assert network.head.weight.grad is None and not network.features._forward_hooks


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "speed": lambda: SpeedNet(num_classes=4, image_size=32, widths=[8, 8, 8]),
    "speed of depth 3": lambda: SpeedNet(num_classes=4, image_size=32, widths=[8, 8, 8], depth=3),
    "simple_cnn": lambda: SimpleCNN(num_classes=4, image_size=32, width=4),
    "resnet": lambda: ResNet(num_classes=4, image_size=32, width=4),
    "squeezenet": lambda: with_pixel_input(models.squeezenet1_1)(num_classes=4, image_size=32),
    "mobilenet": lambda: with_pixel_input(models.mobilenet_v3_small)(num_classes=4, image_size=64),
    "densenet": lambda: with_pixel_input(models.densenet121)(num_classes=4, image_size=64),  # changes its map in place
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_have_a_map_of_several_positions(name: str) -> None:
    torch.manual_seed(0)
    network = NETWORKS[name]().eval()
    size = 64 if name in ("mobilenet", "densenet") else 32
    images = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    layer = last_feature_map(network, images)
    assert layer is not None
    heat = grad_cam(network, layer, images, [0, 3])
    assert heat.shape == (2, size, size) and np.isfinite(heat).all() and heat.min() >= 0 and heat.max() <= 1


def test_a_network_of_tokens_has_no_map() -> None:
    network = with_pixel_input(models.vit_b_32)(num_classes=4, image_size=64).eval()
    assert last_feature_map(network, torch.zeros(1, 3, 64, 64, dtype=torch.uint8)) is None


def test_the_overlay_keeps_the_image_where_the_map_is_one_and_darkens_it_where_it_is_zero() -> None:
    image = np.full((2, 2, 3), 200, np.uint8)
    shown = overlay(image, np.array([[1.0, 0.0], [0.5, 0.0]], np.float32))
    assert (shown[0, 0] == 200).all() and shown[0, 1].max() < 40 and 40 < shown[1, 0, 0] < 200
