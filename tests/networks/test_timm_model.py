"""A network of timm computes what timm's own pipeline computes. Skipped where timm is not installed."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cifar10.images.decode import resize_picture
from cifar10.images.preprocessing import Preprocessing
from cifar10.networks.heads import find_head
from cifar10.networks.timm_model import TimmNetwork

timm = pytest.importorskip("timm")
pytestmark = pytest.mark.filterwarnings("ignore")

NAMES = ("test_resnet.r160_in1k", "test_vit.r160_in1k", "test_efficientnet.r160_in1k")


def random_state(name: str) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    state: dict[str, torch.Tensor] = timm.create_model(name).state_dict()
    return state


@pytest.mark.parametrize("name", NAMES)
def test_photo_to_probabilities_is_timms_own_pipeline(name: str) -> None:
    state, published = random_state(name), TimmNetwork.published_weights(name)
    theirs: Any = timm.create_model(name).eval()
    theirs.load_state_dict(state)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(theirs))
    ours = TimmNetwork(1000, published.image_size, name).eval()
    ours.load_published(state)
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (150, 211, 3), np.uint8))
    interpolation: Any = published.interpolation
    pixels = resize_picture(photo, Preprocessing(published.image_size, published.resize_size, interpolation))
    with torch.no_grad():
        expected = theirs(transform(photo)[None]).softmax(dim=1)
        found = ours(torch.from_numpy(pixels).permute(2, 0, 1)[None]).softmax(dim=1)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_other_classes_get_a_new_head_and_everything_else_is_pretrained(name: str) -> None:
    state = random_state(name)
    network = TimmNetwork(5, 160, name)
    head_name, head = find_head(network, 5)
    before = {key: value.clone() for key, value in head.state_dict().items()}
    random_before = torch.get_rng_state()
    network.load_published(state)
    assert torch.equal(torch.get_rng_state(), random_before)
    assert all(torch.equal(before[key], value) for key, value in head.state_dict().items())
    own = {key: value for key, value in network.network.state_dict().items() if f"network.{key}" not in head_name}
    others = [key for key in own if not f"network.{key}".startswith(f"{head_name}.")]
    assert others and all(torch.equal(own[key], state[key]) for key in others)


def test_a_transformer_takes_images_of_another_size() -> None:
    network = TimmNetwork(5, 96, "test_vit.r160_in1k").eval()
    network.load_published(random_state("test_vit.r160_in1k"))
    assert network(torch.zeros(2, 3, 96, 96, dtype=torch.uint8)).shape == (2, 5)


@pytest.mark.parametrize("name", ["hf_hub:stranger/network", "local-dir:/tmp", "resnet18.no_such_weights", "resnet15"])
def test_a_name_that_would_fetch_something_or_does_not_exist_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="timm has no such"):
        TimmNetwork(5, 64, name)


def test_the_published_weights_have_an_address_and_a_name_of_their_own() -> None:
    published = TimmNetwork.published_weights("resnet18.a1_in1k")
    assert published.url == "https://huggingface.co/timm/resnet18.a1_in1k/resolve/main/model.safetensors"
    assert published.file_name == "timm-resnet18.a1_in1k-model.safetensors"
    assert len(published.class_names) == 1000 and published.class_names[281] == "tabby"


def test_weights_of_another_network_are_refused() -> None:
    with pytest.raises(ValueError, match="not weights of test_resnet"):
        TimmNetwork(1000, 160, "test_resnet.r160_in1k").load_published(random_state("test_vit.r160_in1k"))
