"""Photos are decoded once, survive an interruption, and are read from the file like those in memory."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cifar10.config.schema import Component
from cifar10.data import folder as folder_module
from cifar10.data import photo_store
from cifar10.data.folder import folder
from cifar10.data.image_dataset import DataError, ImageDataset
from cifar10.data.photo_store import open_store
from cifar10.data.stored_images import StoredImages
from cifar10.runs.trained_data import without_sources
from tests.data.test_folder import fill


@pytest.fixture(autouse=True)
def _store_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_module, "_STORED_BYTES", 0)


@pytest.fixture
def _no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_module, "available_memory", lambda: 1000)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are decoded."""
    names: list[str] = []
    decode = vars(photo_store)["decode_files"]

    def counting(paths: Any, *arguments: Any) -> Iterator[Any]:
        for item in decode(paths, *arguments):
            names.append(item[0].name)
            yield item

    monkeypatch.setattr(photo_store, "decode_files", counting)
    return names


def load(root: Path, cache: Path | None) -> ImageDataset:
    return folder(str(root), 16, None, 0.25, 0.2, 0, None if cache is None else str(cache))


@pytest.mark.usefixtures("_no_memory")
@pytest.mark.parametrize("layout", [{"a": 20, "b": 9}, {"train/a": 20, "train/b": 9, "test/a": 3, "test/b": 3}])
def test_images_in_a_file_are_those_in_memory(
    tmp_path: Path, layout: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "photos", layout, size=40)
    (tmp_path / "photos" / next(iter(layout)) / "000b.png").write_bytes(b"broken")
    stored = load(tmp_path / "photos", tmp_path / "cache")
    monkeypatch.setattr(folder_module, "available_memory", lambda: 10**12)
    resident = load(tmp_path / "photos", tmp_path / "cache")
    plain = load(tmp_path / "photos", None)
    assert isinstance(stored.train.images, StoredImages) and isinstance(resident.train.images, torch.Tensor)
    assert stored.digest == resident.digest == plain.digest
    for name in stored.splits:
        assert torch.equal(stored.splits[name].images[:], plain.splits[name].images[:])
        assert torch.equal(stored.splits[name].labels, plain.splits[name].labels)


def test_a_second_run_decodes_nothing_and_a_changed_folder_only_what_has_changed(
    tmp_path: Path, decoded: list[str]
) -> None:
    fill(tmp_path / "photos", {"a": 6, "b": 6})
    load(tmp_path / "photos", tmp_path / "cache")
    assert len(decoded) == 12
    load(tmp_path / "photos", tmp_path / "cache")
    assert len(decoded) == 12
    fill(tmp_path / "more", {"c": 2})
    (tmp_path / "more" / "c" / "000.png").rename(tmp_path / "photos" / "a" / "new.png")
    (tmp_path / "more" / "c" / "001.png").rename(tmp_path / "photos" / "b" / "000.png")  # replaced
    changed = load(tmp_path / "photos", tmp_path / "cache")
    assert decoded[12:] == ["new.png", "000.png"]
    assert changed.digest == load(tmp_path / "photos", None).digest


def test_other_sizes_are_other_stores(tmp_path: Path) -> None:
    fill(tmp_path / "photos", {"a": 3})
    files = sorted((tmp_path / "photos").rglob("*.png"))
    for size in (8, 16):
        store = open_store(files, tmp_path / "photos", size, tmp_path / "cache")
        assert store.pixels.shape == (3, 3, size, size)
    assert len(list((tmp_path / "cache").glob("photos-*"))) == 2


def _emptied(pixels: Path) -> None:
    os.truncate(pixels, 0)


def _cut(pixels: Path) -> None:
    os.truncate(pixels, 2000)


def _of_other_numbers(pixels: Path) -> None:
    np.save(pixels, np.load(pixels).astype(np.int8))


def _transposed(pixels: Path) -> None:
    np.save(pixels, np.asfortranarray(np.load(pixels)))


def _a_pipe(pixels: Path) -> None:
    pixels.unlink()
    os.mkfifo(pixels)


def _an_archive(pixels: Path) -> None:
    with pixels.open("wb") as file:
        np.savez(file, np.zeros(3))


@pytest.mark.parametrize("damage", [_emptied, _cut, _of_other_numbers, _transposed, _a_pipe, _an_archive])
def test_a_damaged_store_is_made_again(damage: Callable[[Path], None], tmp_path: Path, decoded: list[str]) -> None:
    fill(tmp_path / "photos", {"a": 6, "b": 6})
    digest = load(tmp_path / "photos", tmp_path / "cache").digest
    [pixels] = (tmp_path / "cache").rglob("pixels.npy")
    damage(pixels)
    assert load(tmp_path / "photos", tmp_path / "cache").digest == digest
    assert len(decoded) == 24


def test_a_folder_that_cannot_be_written_is_an_error_with_the_setting(tmp_path: Path) -> None:
    fill(tmp_path / "photos", {"a": 6, "b": 6})
    (tmp_path / "file").touch()
    with pytest.raises(
        DataError, match=r"cannot be kept in .*file.* \(.*\); choose another folder: data_loading.cache=DIR"
    ):
        load(tmp_path / "photos", tmp_path / "file")


@pytest.mark.parametrize(("cache", "kept"), [("/elsewhere", False), ("data/cache", True), (None, True)])
def test_a_folder_that_only_a_checkpoint_names_is_not_written(cache: str | None, kept: bool) -> None:
    component = Component.model_validate({"_target_": "cifar10.data.folder.folder", "root": "photos", "cache": cache})
    assert ("cache" in without_sources(component).arguments) == kept


_SLOWLY = """
import sys, time
from pathlib import Path
from cifar10.data import photo_store
photo_store._AT_ONCE = 4
decode = photo_store.decode_files
def slowly(*arguments):
    for item in decode(*arguments):
        time.sleep(0.02)
        yield item
photo_store.decode_files = slowly
root, cache = map(Path, sys.argv[1:])
photo_store.open_store(sorted(root.rglob("*.png")), root, 16, cache)
"""


@pytest.mark.slow
def test_what_was_decoded_before_a_kill_is_kept(tmp_path: Path, decoded: list[str]) -> None:
    fill(tmp_path / "photos", {"a": 60})
    files = sorted((tmp_path / "photos").rglob("*.png"))
    command = [sys.executable, "-c", _SLOWLY, str(tmp_path / "photos"), str(tmp_path / "cache")]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[2], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        found = list((tmp_path / "cache").glob("*.partial/records.npy"))
        if any(file.stat().st_size > 1000 and np.load(file, mmap_mode="r")["state"].any() for file in found):
            break
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not list((tmp_path / "cache").glob("photos-*[!l]"))  # nothing under the final name
    store = open_store(files, tmp_path / "photos", 16, tmp_path / "cache")
    assert 0 < len(decoded) <= 56  # of 60; at least one part of four was kept
    fresh = open_store(files, tmp_path / "photos", 16, tmp_path / "other")
    assert np.array_equal(store.pixels, fresh.pixels)
    assert np.array_equal(store.records, fresh.records)
