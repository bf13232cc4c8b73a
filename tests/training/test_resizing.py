"""Smaller images at first: which size when, and what the smaller ones look like."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cifar10.config.compose import load_config
from cifar10.errors import UsageError, UserError
from cifar10.model import Classifier
from cifar10.train import train
from cifar10.training.resizing import pixels_at, resize

STAGES: list[Any] = [SimpleNamespace(until=0.25, scale=0.5), SimpleNamespace(until=0.5, scale=0.75)]


@pytest.mark.parametrize(("progress", "pixels"), [(0.0, 16), (0.24, 16), (0.25, 24), (0.49, 24), (0.5, 32), (1.0, 32)])
def test_stages_follow_one_another_and_then_images_are_whole(progress: float, pixels: int) -> None:
    assert pixels_at(progress, STAGES, image_size=32) == pixels


def test_without_stages_images_stay_as_they_are() -> None:
    images = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    assert pixels_at(0.0, [], image_size=32) == 32
    assert resize(images, 32) is images


def test_a_smaller_image_averages_and_keeps_the_mean() -> None:
    images = torch.randint(0, 256, (2, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    for given in (images, images.float()):
        halved = resize(given, 16)
        assert halved.shape == (2, 3, 16, 16) and halved.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(halved.float().mean(), images.float().mean(), rtol=0.01, atol=0)
        assert halved.float().std() < 0.8 * images.float().std()  # noise averages out; every second pixel would keep it


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 2])
def test_training_sees_the_sizes_at_their_steps(
    accumulate: int, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    seen: list[int] = []
    original = Classifier._loss

    def watch(self: Classifier, batch: Any, number: int) -> Any:
        handle = self.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[-1]))
        try:
            return original(self, batch, number)
        finally:
            handle.remove()

    monkeypatch.setattr(Classifier, "_loss", watch)
    sizes = ["data_loading.image_size=16", "data_loading.train_size=40", "data_loading.validation_size=0"]
    sizes += ["data_loading.test_size=10", "training.batch_size=10", "training.epochs=2", "training.monitor=null"]
    stages = "training.resizing=[{until:0.25,scale:0.5},{until:0.625,scale:0.75}]"
    words = ["experiment=demo", "tracking=none", *sizes, stages, f"training.accumulate={accumulate}"]
    train(load_config(words))
    expected = [8] * 2 + [12] * 3 + [16] * 3  # optimizer steps
    assert seen == [size for size in expected for _ in range(accumulate)]


def test_sizes_that_the_network_refuses_are_found_before_the_first_step(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["data_loading=shapes", "data_loading.train_size=20", "tracking=none"]
    with pytest.raises(UserError, match=r"images of 8 pixels.*too small.*training\.resizing=\[\]"):
        train(load_config([*words, "training.resizing=[{until:0.5,scale:0.25}]"]))
    assert not (tmp_path / "models").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "stages", ["[{until:0.5,scale:0.5},{until:0.5,scale:0.75}]", "[{until:1.5,scale:0.5}]", "[{until:0.5,scale:2}]"]
)
def test_stages_out_of_order_or_range_are_refused_by_key(stages: str) -> None:
    with pytest.raises(UsageError, match="resizing"):
        load_config([f"training.resizing={stages}"])
