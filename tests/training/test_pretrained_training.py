"""Training starts from published weights; its checkpoints are loaded without them."""

from pathlib import Path

import pytest
import torch
import torchvision

from cifar10.config.build import build
from cifar10.config.compose import load_config
from cifar10.config.targets import DATA, MODEL
from cifar10.errors import UserError
from cifar10.training.fitting import make_network, start_from

SHAPES = ["data_loading=shapes", "data_loading.image_size=64", "data_loading.train_size=20", "tracking=none"]
SIZES = ["data_loading.validation_size=5", "data_loading.test_size=5"]


def test_all_but_the_head_is_that_of_the_file_whatever_the_training_images(tmp_path: Path) -> None:
    torch.manual_seed(1)
    published = torchvision.models.squeezenet1_1().state_dict()
    torch.save(published, tmp_path / "weights.pth")
    model = ["model=squeezenet1_1_imagenet", f"model.weights={tmp_path / 'weights.pth'}"]
    config = load_config([*SHAPES, *SIZES, *model])
    data = build(DATA, config.data_loading)
    networks = []
    for _ in range(2):
        network = make_network(config, data)
        assert start_from(config, network, data) is None
        networks.append(network.state_dict())
    assert all(torch.equal(networks[0][name], networks[1][name]) for name in networks[0])  # the head too, by the seed
    features = [name for name in published if name.startswith("features.")]
    assert features and all(torch.equal(networks[0][f"network.{name}"], published[name]) for name in features)
    assert networks[0]["network.classifier.3.weight"].shape == (data.num_classes, 512)
    torch.testing.assert_close(networks[0]["normalize.mean"].flatten(), torch.tensor([123.675, 116.28, 103.53]))
    (tmp_path / "weights.pth").unlink()
    sizes = {"num_classes": data.num_classes, "image_size": data.image_size}
    build(MODEL, config.model, **sizes).load_state_dict(networks[0])  # as a checkpoint is rebuilt
    with pytest.raises(UserError, match="there is no file"):
        start_from(config, make_network(config, data), data)
