"""A pretrained network computes what torchvision's own does, and gets another head for other classes."""

import copy
import io
import re
from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import WeightsEnum

from cifar10.networks.heads import embed, find_head, head_parameters
from cifar10.networks.pretrained import TorchvisionNetwork

SMALL = ("squeezenet1_1", "shufflenet_v2_x0_5", "mobilenet_v3_small")
ODD = ("densenet121", "googlenet", "inception_v3", "vit_b_32", "mnasnet0_5", "maxvit_t", "efficientnet_b0")
"""Architectures whose published weights or settings differ from what a plain constructor makes."""


def random_state(name: str) -> Mapping[str, Tensor]:
    """Return random weights as torchvision would publish them: saved and loaded, with the auxiliary classifiers."""
    torch.manual_seed(1)
    auxiliary = {"aux_logits": True, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
    network = torchvision.models.get_model(name, weights=None, **auxiliary)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)  # type: ignore[union-attr]
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    state: Mapping[str, Tensor] = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    return state


def photos(size: int) -> Tensor:
    return torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", [*SMALL, *(pytest.param(name, marks=pytest.mark.slow) for name in ODD)])
def test_it_computes_what_torchvision_computes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    state = random_state(name)
    published = TorchvisionNetwork.published_weights(name)
    network = TorchvisionNetwork(1000, published.image_size, name).eval()
    network.load_published(state)
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda *_, **__: copy.copy(state))
    weights: Any = torchvision.models.get_model_weights(name).DEFAULT
    theirs = torchvision.models.get_model(name, weights=weights).eval()
    images = photos(published.image_size)
    transforms = weights.transforms()
    normalised = torchvision.transforms.functional.normalize(images / 255, transforms.mean, transforms.std)
    with torch.no_grad():
        expected = theirs(normalised).softmax(dim=1)
        torch.testing.assert_close(network(images).softmax(dim=1), expected, atol=1e-6, rtol=1e-4)


def test_older_names_of_the_layers_of_densenet_are_understood() -> None:
    with torch.device("meta"):
        network = TorchvisionNetwork(1000, 64, "densenet121")
    state = network.network.state_dict()
    older = {re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", key): value for key, value in state.items()}
    assert set(older) != set(state)
    network.load_published(older)


@pytest.mark.parametrize("name", SMALL)
def test_other_classes_get_a_new_head_and_everything_else_is_pretrained(name: str) -> None:
    state = random_state(name)
    network = TorchvisionNetwork(5, 64, name).eval()
    head_name, head = find_head(network, 5)
    before = {key: value.clone() for key, value in head.state_dict().items()}
    network.load_published(state)
    own = network.network.state_dict()
    heads = [key.removeprefix("network.") for key in head_parameters(network, 5)]
    assert set(own) - set(heads) <= set(state)
    assert all(torch.equal(own[key], state[key]) for key in own if key not in heads)
    assert all(torch.equal(before[key], value) for key, value in head.state_dict().items())
    assert isinstance(head, nn.Linear) and head_name.startswith("network.")


@pytest.mark.parametrize("name", SMALL)
def test_the_head_of_an_embedding_gives_the_logits(name: str) -> None:
    torch.manual_seed(0)
    network = TorchvisionNetwork(5, 64, name).eval()
    images = photos(64)
    embedding = embed(network, images, 5)
    _, head = find_head(network, 5)
    torch.testing.assert_close(head(embedding), network(images))


def test_the_embedding_of_a_convolutional_head_is_averaged_over_positions() -> None:
    network = TorchvisionNetwork(1000, 64, "squeezenet1_1").eval()
    assert embed(network, photos(64), 1000).shape == (2, 512)


def test_training_images_do_not_change_the_statistics_that_the_weights_need() -> None:
    network = TorchvisionNetwork(5, 64, "squeezenet1_1")
    network.calibrate(photos(64))
    torch.testing.assert_close(network.normalize.mean.flatten(), torch.tensor([123.675, 116.28, 103.53]))


@pytest.mark.slow
def test_positions_of_a_transformer_are_interpolated_to_another_size() -> None:
    torch.manual_seed(0)
    state = dict(torchvision.models.vit_b_32(weights=None, num_classes=1000).state_dict())
    network = TorchvisionNetwork(3, 96, "vit_b_32")
    network.load_published(state)
    assert network.network.state_dict()["encoder.pos_embedding"].shape == (1, 10, 768)


def test_weights_without_versions_of_layers_are_current_ones() -> None:
    torch.manual_seed(0)
    first, second = (TorchvisionNetwork(5, 64, "mnasnet0_5").eval() for _ in range(2))
    second.load_state_dict(dict(first.state_dict()))
    assert torch.equal(first(photos(64)), second(photos(64)))


def test_the_name_of_a_file_decides_the_version() -> None:
    published = TorchvisionNetwork.published_weights
    assert published("resnet152").name == "resnet152 IMAGENET1K_V2"
    first = published("resnet152", "somewhere/resnet152-394f9c45.pth")
    assert (first.name, first.resize_size, first.sha256) == ("resnet152 IMAGENET1K_V1", 256, "394f9c45")
    assert published("resnet152", "mine.pth", "IMAGENET1K_V1") == first


def test_what_torchvision_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="torchvision has no such classifier"):
        TorchvisionNetwork(5, 64, "fasterrcnn_resnet50_fpn")
    with pytest.raises(ValueError, match="IMAGENET1K_V1, IMAGENET1K_V2"):
        TorchvisionNetwork.published_weights("resnet152", version="V3")


def test_weights_of_another_network_are_refused_in_one_line() -> None:
    network = TorchvisionNetwork(1000, 64, "squeezenet1_1")
    with pytest.raises(ValueError, match="not weights of squeezenet1_1") as refusal:
        network.load_published(random_state("squeezenet1_0"))
    assert "\n" not in str(refusal.value)
