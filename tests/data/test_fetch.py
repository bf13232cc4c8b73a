from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from cifar10.config.compose import load_config
from cifar10.data.image_dataset import ImageDataset, Split
from cifar10.errors import UsageError
from cifar10.networks.normalize import channel_statistics
from cifar10.prepare_data import describe, prepare_data
from tests.tiny_cifar import NAMES10, make_tiny_cifar10


def random_split(count: int, num_classes: int) -> Split:
    generator = torch.Generator().manual_seed(count)
    images = torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=generator)
    return Split(images, torch.arange(count) % num_classes)


def test_report_is_yaml_and_true(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_tiny_cifar10(tmp_path, monkeypatch)
    prepare_data(load_config([f"data_loading.root={tmp_path}", "data_loading.validation_size=30"]))
    report = yaml.safe_load(capsys.readouterr().out)
    assert report["name"] == "cifar10" and report["classes"] == 10 and report["image_size"] == 32
    assert report["images"] == {"train": 70, "validation": 30, "test": 20}
    assert report["images_per_class"] == {name: [7, 3, 2] for name in NAMES10}
    assert len(report["sha256"]) == 64 and len(report["mean"]) == len(report["std"]) == 3
    assert not (tmp_path / "train").exists()


def test_class_names_that_yaml_reads_otherwise_are_quoted() -> None:
    names = ("no", "1", "a: b", "# x", "plain", "кот")
    data = ImageDataset("odd", names, *(random_split(12, 6) for _ in range(3)))
    assert list(yaml.safe_load(describe(data))["images_per_class"]) == list(names)


def test_statistics_are_those_of_all_pixels() -> None:
    split = random_split(4100, 2)  # more than one piece
    mean, deviation = (levels / 255 for levels in channel_statistics(split.images[:]))
    pixels = split.images[:].double() / 255
    torch.testing.assert_close(mean, pixels.mean(dim=(0, 2, 3)))
    torch.testing.assert_close(deviation, pixels.std(dim=(0, 2, 3), correction=0))


def test_exported_cifar_is_numbered_as_published_whatever_is_held_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = make_tiny_cifar10(tmp_path, monkeypatch)
    for validation_size in (30, 10):  # the second export finds everything in place
        overrides = [f"data_loading.root={tmp_path}", f"data_loading.validation_size={validation_size}"]
        prepare_data(load_config(overrides), export_images=True)
    assert len(list((tmp_path / "train").rglob("*.png"))) == 100
    third_of_second_batch = np.asarray(Image.open(tmp_path / "train" / "bird" / "22.png"))
    np.testing.assert_array_equal(
        third_of_second_batch, batches["data_batch_2"]["data"][2].reshape(3, 32, 32).transpose(1, 2, 0)
    )


def test_data_without_a_root_are_exported_to_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [f"data_loading.{name}_size={size}" for name, size in {"train": 20, "validation": 10, "test": 10}.items()]
    config = load_config(["data_loading=shapes", *sizes])
    monkeypatch.chdir(tmp_path)
    prepare_data(config, export_images=True)
    assert (
        len(list(Path("data/shapes/train").rglob("*.png"))) == 30
        and len(list(Path("data/shapes/test").rglob("*.png"))) == 10
    )


def test_data_that_are_files_already_are_not_exported(tmp_path: Path) -> None:
    config = load_config(["data_loading=folder", f"data_loading.root={tmp_path}"])
    with pytest.raises(UsageError, match="nothing to export"):
        prepare_data(config, export_images=True)
