"""A folder of class folders becomes three disjoint splits, and what is wrong with it is said plainly."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cifar10.config.build import build
from cifar10.config.compose import load_config
from cifar10.config.targets import DATA
from cifar10.data.folder import folder
from cifar10.data.image_dataset import DataError, ImageDataset
from tests.malformed import malformed_images, picture

pytestmark = pytest.mark.filterwarnings("ignore")  # Pillow's remarks, which `infer` silences outside of tests


def fill(root: Path, counts: dict[str, int], size: int = 16) -> None:
    """Write `counts[FOLDER]` different pictures into each folder under `root`."""
    for position, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(picture(1000 * position + number, size)).save(root / name / f"{number:03}.png")


def load(
    root: Path,
    classes: list[str | int] | None = None,
    validation_fraction: float = 0.25,
    test_fraction: float = 0.2,
    seed: int = 0,
) -> ImageDataset:
    return folder(str(root), 16, classes, validation_fraction, test_fraction, seed)


def fingerprints(data: ImageDataset) -> dict[str, set[bytes]]:
    return {name: {image.numpy().tobytes() for image in split.images[:]} for name, split in data.splits.items()}


def test_train_and_test_folders_become_their_splits(tmp_path: Path) -> None:
    fill(tmp_path, {"train/dog": 8, "train/cat": 12, "test/cat": 3, "test/dog": 2})
    data = load(tmp_path)
    assert data.class_names == ("cat", "dog")
    assert {name: torch.bincount(split.labels).tolist() for name, split in data.splits.items()} == {
        "train": [9, 6],
        "validation": [3, 2],
        "test": [3, 2],
    }
    first = np.asarray(Image.open(tmp_path / "test" / "cat" / "000.png"))
    np.testing.assert_array_equal(data.test.images[0].permute(1, 2, 0), first)


def test_without_a_test_folder_a_part_of_each_class_is_cut_off(tmp_path: Path) -> None:
    fill(tmp_path, {"train/a": 10, "train/b": 20})
    data = load(tmp_path)
    assert torch.bincount(data.test.labels).tolist() == [2, 4]
    prints = fingerprints(data)
    assert sum(map(len, prints.values())) == len(set.union(*prints.values())) == 30


def test_the_seed_alone_determines_the_splits(tmp_path: Path) -> None:
    fill(tmp_path, {"train/a": 20, "train/b": 20})
    assert load(tmp_path, seed=1).digest == load(tmp_path, seed=1).digest != load(tmp_path, seed=2).digest


def test_classes_are_chosen_and_ordered_by_name_or_alias(tmp_path: Path) -> None:
    fill(tmp_path, {"train/plane": 6, "train/cat": 6, "train/dog": 6, "test/airplane": 2, "test/cat": 2})
    data = load(tmp_path, classes=["cat", "airplane"])
    assert data.class_names == ("cat", "airplane")
    assert data.test.labels.tolist() == [1, 1, 0, 0]
    assert len(data.train) + len(data.validation) == 12


def test_other_sizes_are_resized_and_nested_and_hidden_folders_understood(tmp_path: Path) -> None:
    fill(tmp_path, {"train/a/deep/er": 5, "train/b": 5, "train/.ipynb_checkpoints": 2}, size=50)
    data = load(tmp_path)
    assert data.class_names == ("a", "b") and data.image_size == 16 and sum(map(len, data.splits.values())) == 10


def test_unreadable_images_are_left_out_and_named_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(tmp_path, {"train/a": 10, "train/b": 10})
    clean = load(tmp_path)
    for malformed in malformed_images():
        (tmp_path / "train" / "a" / malformed.name).write_bytes(malformed.data)
    with caplog.at_level(logging.WARNING):
        data = load(tmp_path)
    assert data.digest == clean.digest
    [record] = caplog.records
    count = len(malformed_images())
    assert record.getMessage().startswith(
        f"{count} of {count + 20} images in {tmp_path}/train are left out: 'a/archive"
    )
    assert record.getMessage().endswith(f"and {count - 3} more") and "\n" not in record.getMessage()


def test_a_class_without_a_readable_image_is_an_error(tmp_path: Path) -> None:
    fill(tmp_path, {"train/a": 3, "train/b": 3, "train/c": 0})
    (tmp_path / "train" / "c" / "broken.png").write_bytes(b"broken")
    with pytest.raises(DataError, match="class c has no image that can be read"):
        load(tmp_path)


def test_a_class_that_is_held_out_altogether_is_an_error(tmp_path: Path) -> None:
    fill(tmp_path, {"train/a": 30, "train/b": 1})
    with pytest.raises(DataError, match="class b has no image left to train on"):
        load(tmp_path, validation_fraction=0.9, test_fraction=0.9)


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ({}, r"put a folder of images for each class into .*, such as .*/cat/1\.png, or into train"),
        ({"cat": 1, "dog": 1}, "no images to test on: add images to"),
        ({"cat": 4, "test": 1, "dog": 4}, "put a folder of images for each class into"),
        ({"cat": 4, "dog": 0}, "has images of one class only, cat; add a folder for each other class"),
        ({"train/cat": 1}, "has 1 class folders; a classifier needs at least 2"),
        ({"train/cat": 0, "train/dog": 0}, "class cat, dog has no image that can be read"),
        ({"train/cat": 4, "train/dog": 4, "test/cat": 0}, "no images to test on"),
        ({"Training/cat": 4, "test/cat": 1}, "no folder .*/train; rename .*/Training"),
    ],
)
def test_a_wrong_layout_is_an_error_that_says_what_to_put_where(
    tmp_path: Path, folders: dict[str, int], message: str
) -> None:
    fill(tmp_path, folders)
    with pytest.raises(DataError, match=message):
        load(tmp_path)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["cat", "zebra"], "no folder .*train/zebra; there are cat, dog"),
        (["cat"], "at least 2"),
        (["cat", "cat"], "twice"),
    ],
)
def test_wrong_classes_are_errors(tmp_path: Path, classes: list[str | int], message: str) -> None:
    fill(tmp_path, {"train/cat": 4, "train/dog": 4})
    with pytest.raises(DataError, match=message):
        load(tmp_path, classes)


def test_more_than_fits_into_memory_is_refused_before_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, {"train/a": 5, "train/b": 5})
    monkeypatch.setattr("cifar10.system.limits.psutil.virtual_memory", lambda: type("M", (), {"available": 1000}))
    with pytest.raises(DataError, match=r"only 0\.0 GB are free; choose a smaller .* data_loading.cache=DIR"):
        folder(str(tmp_path), 16, None, 0.25, 0.2, 0, cache=None)


def test_a_folder_of_classes_is_divided_by_itself_and_folders_without_images_are_no_classes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(tmp_path, {"cat": 10, "dog": 20, "notes": 0})
    data = load(tmp_path)
    assert data.class_names == ("cat", "dog")
    assert {name: torch.bincount(split.labels).tolist() for name, split in data.splits.items()} == {
        "train": [6, 12],
        "validation": [2, 4],
        "test": [2, 4],
    }
    prints = fingerprints(data)
    assert sum(map(len, prints.values())) == len(set.union(*prints.values())) == 30
    assert "divided into 18 to train on, 6 to validate on and 6 to test on" in capsys.readouterr().err


def test_a_train_folder_beside_a_test_folder_is_not_divided(tmp_path: Path) -> None:
    fill(tmp_path, {"train/a": 4, "train/b": 4, "test/a": 1, "test/b": 1})
    with pytest.raises(DataError, match=rf"data_loading.root={tmp_path}$"):
        load(tmp_path / "train")
    assert len(load(tmp_path).test) == 2


@pytest.mark.parametrize("name", ["val", "valid", "validation", "Val"])
def test_a_validation_folder_is_used_and_nothing_is_held_out(tmp_path: Path, name: str) -> None:
    fill(tmp_path, {"train/a": 8, "train/b": 8, f"{name}/a": 2, f"{name}/b": 1, "test/a": 3, "test/b": 3})
    data = load(tmp_path)
    assert {split: len(images) for split, images in data.splits.items()} == {"train": 16, "validation": 3, "test": 6}
    first = np.asarray(Image.open(tmp_path / name / "a" / "000.png"))
    np.testing.assert_array_equal(data.validation.images[0].permute(1, 2, 0), first)


def test_with_train_and_val_only_the_test_split_is_cut_from_train_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fill(tmp_path, {"train/a": 10, "train/b": 10, "val/a": 4, "val/b": 4})
    data = load(tmp_path)
    assert {split: len(images) for split, images in data.splits.items()} == {"train": 16, "validation": 8, "test": 4}
    [record] = caplog.records
    assert "test_fraction=0.2" in record.getMessage() and "rename it test" in record.getMessage()


def test_two_validation_folders_are_refused(tmp_path: Path) -> None:
    fill(tmp_path, {"train/a": 4, "train/b": 4, "val/a": 1, "valid/a": 1})
    with pytest.raises(DataError, match=r"val and valid in .* are both the validation split"):
        load(tmp_path)


def test_a_validation_folder_without_class_folders_is_told_and_a_part_of_train_held_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fill(tmp_path, {"train/a": 8, "train/b": 8, "val": 3, "test/a": 1, "test/b": 1})
    assert len(load(tmp_path).validation) == 4
    told = [record.getMessage() for record in caplog.records]
    assert told == [
        f"{tmp_path}/val: passed over: 3 image outside of the class folders",
        f"{tmp_path}/val holds no image of a class; validation_fraction is cut off instead",
    ]


def test_classes_without_a_test_image_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(tmp_path, {"train/a": 4, "train/b": 4, "train/c": 4, "test/b": 1})
    load(tmp_path)
    assert [r.getMessage() for r in caplog.records] == ["2 of 3 classes have no test image, so no score: a, c"]


def test_links_in_class_folders_are_images_as_any(tmp_path: Path) -> None:
    fill(tmp_path / "pool", {"train/a": 6, "train/b": 6, "test/a": 2, "test/b": 2})
    plain = load(tmp_path / "pool").digest
    for by in ("files", "folders"):
        for split in ("train", "test"):
            for name in ("a", "b"):
                source, link = tmp_path / "pool" / split / name, tmp_path / by / split / name
                link.parent.mkdir(parents=True, exist_ok=True)
                if by == "folders":
                    link.symlink_to(source)
                    continue
                link.mkdir()
                for file in source.iterdir():
                    (link / file.name).symlink_to(file)
        assert load(tmp_path / by).digest == plain, by


def test_a_link_whose_file_is_gone_is_left_out_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(tmp_path, {"train/a": 6, "train/b": 6, "test/a": 1, "test/b": 1})
    (tmp_path / "train" / "a" / "unfetched.png").symlink_to("../../.git/annex/objects/SHA256.png")
    load(tmp_path)
    [record] = caplog.records
    assert "1 of 13 images" in record.getMessage() and "a/unfetched.png" in record.getMessage()


@pytest.mark.parametrize("name", ["@a", "=", "2024-02-30", "null", "new\nline", "a,b", "кот"])
def test_any_name_in_utf8_is_a_class(tmp_path: Path, name: str) -> None:
    fill(tmp_path, {f"train/{name}": 4, "train/zebra": 4})
    assert set(load(tmp_path).class_names) == {name, "zebra"}


def test_the_yaml_builds_it(tmp_path: Path) -> None:
    fill(tmp_path, {"train/a": 10, "train/b": 10})
    config = load_config(["data_loading=folder", f"data_loading.root={tmp_path}", "data_loading.image_size=16"])
    data = build(DATA, config.data_loading)
    assert isinstance(data, ImageDataset) and {name: len(split) for name, split in data.splits.items()} == {
        "train": 14,
        "validation": 2,
        "test": 4,
    }
