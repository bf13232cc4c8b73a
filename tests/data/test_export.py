from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cifar10.constants import EXPORT_MARKER
from cifar10.data.export import export_images
from cifar10.data.image_dataset import DataError, ImageDataset, Split
from cifar10.images.search import ImageSearch, list_folders


def make_data(name: str = "noise", seed: int = 0) -> ImageDataset:
    """12 training, 3 validation and 6 test images of noise in three classes."""
    generator = torch.Generator().manual_seed(seed)

    def split(count: int) -> Split:
        images = torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=generator)
        return Split(images, torch.arange(count) % 3)

    return ImageDataset(name, ("cat", "dog", "big_truck"), split(12), split(3), split(6))


def files_of(root: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(root)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in root.rglob("*")
        if path.is_file()
    }


def test_files_hold_exactly_the_pixels_under_class_and_place(tmp_path: Path) -> None:
    data = make_data()
    export_images(data, tmp_path)
    pool = {"train": [*data.train.images[:], *data.validation.images[:]], "test": list(data.test.images[:])}
    labels = {"train": [*data.train.labels, *data.validation.labels], "test": list(data.test.labels)}
    assert len(list(tmp_path.rglob("*.png"))) == 21
    for name, digits in (("train", 2), ("test", 1)):
        for row, (image, label) in enumerate(zip(pool[name], labels[name], strict=True)):
            path = tmp_path / name / data.class_names[label] / f"{row:0{digits}}.png"
            np.testing.assert_array_equal(np.asarray(Image.open(path)), image.permute(1, 2, 0).numpy())


def test_exported_images_are_found_and_nothing_is_said_to_be_passed_over(tmp_path: Path) -> None:
    export_images(make_data(), tmp_path)
    search = ImageSearch(str(tmp_path))
    assert len(list(search)) == 21 and not search.skipped
    assert list_folders(str(tmp_path / "train")) == (["big_truck", "cat", "dog"], Counter())


def test_second_export_changes_nothing(tmp_path: Path) -> None:
    export_images(make_data(), tmp_path)
    before = files_of(tmp_path)
    export_images(make_data(), tmp_path)
    assert files_of(tmp_path) == before


def test_lost_files_are_written_again(tmp_path: Path) -> None:
    export_images(make_data(), tmp_path)
    lost = tmp_path / "train" / "cat" / "03.png"
    content = lost.read_bytes()
    lost.unlink()
    export_images(make_data(), tmp_path)
    assert lost.read_bytes() == content


def test_interrupted_export_shows_no_folder_and_is_taken_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[Image.Image] = []
    save = Image.Image.save

    def save_seven(self: Image.Image, *args: object, **kwargs: object) -> None:
        if len(saved) == 7:
            raise KeyboardInterrupt
        saved.append(self)
        save(self, *args, **kwargs)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", save_seven)
        with pytest.raises(KeyboardInterrupt):
            export_images(make_data(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".train.unfinished"]
    first = files_of(tmp_path / ".train.unfinished")
    assert len(first) == 7 + 1  # and the marker
    export_images(make_data(), tmp_path)
    whole = files_of(tmp_path / "train")
    assert len(whole) == 15 + 1 and {path.name for path in tmp_path.iterdir()} == {"train", "test"}
    assert all(whole[name] == first[name] for name in first if name.endswith(".png"))


@pytest.mark.parametrize("name", ["train", "test"])
def test_foreign_folder_is_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name / "cat").mkdir(parents=True)
    (tmp_path / name / "cat" / "mine.png").write_bytes(b"mine")
    with pytest.raises(DataError, match=rf"{name} already exists and was not made by an export; move it away"):
        export_images(make_data(), tmp_path)
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.png")] == [f"{name}/cat/mine.png"]


def test_export_of_other_data_is_left_alone(tmp_path: Path) -> None:
    export_images(make_data(), tmp_path)
    before = files_of(tmp_path)
    with pytest.raises(DataError, match=r"train already exists and holds noise; move it away$"):
        export_images(make_data("other", seed=1), tmp_path)
    assert files_of(tmp_path) == before


def test_unwritable_place_is_told_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match=r"cannot be written to .*file.* \(Not a directory\)"):
        export_images(make_data(), tmp_path / "file")


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"one"])
def test_a_folder_with_a_damaged_marker_is_nobody_s(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / EXPORT_MARKER).write_bytes(content)
    with pytest.raises(DataError, match="train already exists"):
        export_images(make_data(), tmp_path)
    assert (tmp_path / "train" / EXPORT_MARKER).read_bytes() == content
