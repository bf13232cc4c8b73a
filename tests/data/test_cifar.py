from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10, CIFAR100

from cifar10.config.build import component_problems
from cifar10.config.compose import load_config
from cifar10.config.targets import DATA
from cifar10.constants import (
    CIFAR10_ARCHIVE,
    CIFAR10_MEAN,
    CIFAR10_STD,
    CIFAR100_ARCHIVE,
    CIFAR100_MEAN,
    CIFAR100_STD,
    CLASS_ALIASES,
    Archive,
)
from cifar10.data.cifar import choose_classes, cifar10, cifar100
from cifar10.data.image_dataset import DataError, ImageDataset
from cifar10.networks.normalize import channel_statistics
from tests.tiny_cifar import COARSE, FINE, NAMES10, make_tiny_cifar10, make_tiny_cifar100


def test_cifar10_is_the_published_pixels_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = make_tiny_cifar10(tmp_path, monkeypatch)
    data = cifar10(str(tmp_path), None, 0, 0, None)
    assert data.name == "cifar10" and list(data.class_names) == NAMES10
    expected = np.concatenate([batches[f"data_batch_{number}"]["data"] for number in range(1, 6)])
    np.testing.assert_array_equal(data.train.images[:].numpy(), expected.reshape(-1, 3, 32, 32))
    np.testing.assert_array_equal(data.test.images[:].numpy(), batches["test_batch"]["data"].reshape(-1, 3, 32, 32))
    assert data.train.labels.tolist() == list(range(10)) * 10 and data.train.images[:].is_contiguous()


def test_validation_images_are_held_out_of_the_training_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_tiny_cifar10(tmp_path, monkeypatch)
    data = cifar10(str(tmp_path), None, 30, 0, None)
    assert [len(split) for split in data.splits.values()] == [70, 30, 20]
    assert torch.bincount(data.validation.labels).tolist() == [3] * 10
    assert cifar10(str(tmp_path), None, 30, 0, None).digest == data.digest
    assert cifar10(str(tmp_path), None, 30, 1, None).digest != data.digest


def test_chosen_classes_are_relabelled_in_the_given_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_tiny_cifar10(tmp_path, monkeypatch)
    everything = cifar10(str(tmp_path), None, 0, 0, None)
    data = cifar10(str(tmp_path), ["dog", "plane", "Cat"], 6, 0, None)
    assert data.class_names == ("dog", "airplane", "cat")
    assert torch.bincount(data.validation.labels).tolist() == [2, 2, 2] and len(data.train) == 24
    for label, published in enumerate([5, 0, 3]):
        chosen = data.test.images[data.test.labels == label]
        torch.testing.assert_close(chosen, everything.test.images[everything.test.labels == published])


def test_cifar100_has_fine_and_coarse_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = make_tiny_cifar100(tmp_path, monkeypatch)
    fine = cifar100(str(tmp_path), "fine", None, 0, 0, None)
    coarse = cifar100(str(tmp_path), "coarse", None, 0, 0, None)
    assert list(fine.class_names) == FINE and list(coarse.class_names) == COARSE
    assert fine.test.labels.tolist() == batches["test"]["fine_labels"]
    assert coarse.train.labels.tolist() == batches["train"]["coarse_labels"]
    torch.testing.assert_close(fine.train.images, coarse.train.images)
    assert fine.name != coarse.name
    assert cifar100(str(tmp_path), "fine", ["bicycle", "maple tree"], 0, 0, None).class_names[1] == "maple_tree"


def test_files_that_are_not_the_published_ones_are_not_unpickled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tiny_cifar10(tmp_path, monkeypatch)
    (tmp_path / "cifar-10-batches-py" / "batches.meta").write_bytes(b"cos\nabort\n(tR.")  # would end this process
    with pytest.raises(DataError, match=r"cifar-10-batches-py is not in .* and unavailable"):
        cifar10(str(tmp_path), None, 0, 0, None)


@pytest.mark.parametrize("alias", CLASS_ALIASES)
def test_both_spellings_of_a_class_are_understood(alias: str) -> None:
    assert choose_classes([alias, "cat"], NAMES10) == [NAMES10.index(CLASS_ALIASES[alias]), 3]


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["car", "automobile"], "'automobile' is the same class as 'car'"),
        (["cat", "cat"], "'cat' is the same class as 'cat'"),
        (["autombile", "cat"], "no class 'autombile'; did you mean automobile?"),
        (["plain", "cat"], "did you mean plane?"),
        (["zebra", "cat"], "no class 'zebra'; the classes are airplane, automobile"),
        (["cat"], r"classes=\['cat'\] leaves nothing to tell apart"),
        ([], r"classes=\[\] leaves nothing to tell apart"),
    ],
)
def test_unusable_choice_of_classes_is_told_in_words(classes: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        choose_classes(classes, NAMES10)


@pytest.mark.parametrize(
    "override",
    ["validation_size=-1", "seed=-1", "classes=cat", "sources=/tmp/x.tar.gz", "root=''", "validation_size=many"],
)
@pytest.mark.parametrize("group", ["cifar10", "cifar100"])
def test_bad_settings_are_refused_before_anything_is_read(group: str, override: str) -> None:
    with pytest.raises(ValueError, match=override.partition("=")[0]):
        load_config([f"data_loading={group}", f"data_loading.{override}"])


@pytest.mark.parametrize("group", ["cifar10", "cifar100"])
def test_yaml_fits_the_loader(group: str) -> None:
    assert component_problems(DATA, load_config([f"data_loading={group}"]).data_loading) == []


@pytest.mark.parametrize(("archive", "published"), [(CIFAR10_ARCHIVE, CIFAR10), (CIFAR100_ARCHIVE, CIFAR100)])
def test_constants_agree_with_torchvision(archive: Archive, published: type[CIFAR10]) -> None:
    meta = published.meta
    files = [*published.train_list, *published.test_list, [meta["filename"], meta["md5"]]]
    assert archive.members == tuple(map(tuple, files))
    assert (archive.name, archive.md5, archive.folder) == (
        published.filename,
        published.tgz_md5,
        published.base_folder,
    )
    assert archive.urls[-1] == published.url and all(url.startswith("https://") for url in archive.urls)


@pytest.mark.real
def test_real_cifar10_has_its_known_numbers(real_data_root: Path) -> None:
    data = cifar10(str(real_data_root), None, 0, 0, None)
    assert [len(split) for split in data.splits.values()] == [50_000, 0, 10_000]
    assert data.train.labels.bincount().tolist() == [5000] * 10
    assert data.test.labels.bincount().tolist() == [1000] * 10
    assert_statistics(data, CIFAR10_MEAN, CIFAR10_STD)
    assert data.digest == "1640c2d0c5b7b5c595b4f4ce42f650b589dfccd56caf6eb0a39ab790d5eb1e15"


@pytest.mark.real
def test_real_cifar100_has_its_known_numbers(real_data_root: Path) -> None:
    fine = cifar100(str(real_data_root), "fine", None, 0, 0, None)
    coarse = cifar100(str(real_data_root), "coarse", None, 0, 0, None)
    assert fine.train.labels.bincount().tolist() == [500] * 100
    assert coarse.test.labels.bincount().tolist() == [500] * 20
    pairs = torch.stack([fine.train.labels, coarse.train.labels]).unique(dim=1)
    assert pairs.shape == (2, 100)  # a fine class lies in one coarse class only
    first = (fine.class_names[fine.test.labels[0]], coarse.class_names[coarse.test.labels[0]])
    assert first == ("mountain", "large_natural_outdoor_scenes")
    assert_statistics(fine, CIFAR100_MEAN, CIFAR100_STD)
    assert fine.digest == "e516d641ed725473155f3dc473eeae1c2b0f5d3f01ff14199e940291d8ea092e"


def assert_statistics(data: ImageDataset, mean: tuple[float, ...], deviation: tuple[float, ...]) -> None:
    for found, published in zip(channel_statistics(data.train.images[:]), (mean, deviation), strict=True):
        assert [round(value / 255, 4) for value in found.tolist()] == list(published)
