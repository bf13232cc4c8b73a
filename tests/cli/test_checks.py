"""What --test_dir cannot be is said in one line, with the way out."""

import tarfile
import zipfile
from pathlib import Path

import pytest

from cifar10.cli.checks import require_images
from cifar10.errors import UsageError
from tests.malformed import encode, malformed_images, picture


def refusal(path: Path) -> str:
    with pytest.raises(UsageError) as caught:
        require_images(str(path))
    message = str(caught.value)
    assert len(message.splitlines()) == 1 and str(path) in message
    return message


def test_an_archive_of_another_kind_is_to_be_unpacked_first(tmp_path: Path) -> None:
    for name, start in {"7z": b"7z\xbc\xaf\x27\x1c", "rar": b"Rar!\x1a\x07"}.items():
        (tmp_path / name).write_bytes(start + bytes(99))
        assert f"is a {name} archive; unpack it first, and name the folder" in refusal(tmp_path / name)


def test_an_archive_without_images_says_what_it_holds(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("notes.txt", "x")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(__file__, "notes.txt")
    for name in ("a.zip", "a.tar"):
        assert "no images in" in refusal(tmp_path / name)
        assert "passed over: 1 not named as an image" in refusal(tmp_path / name)
    with zipfile.ZipFile(tmp_path / "empty.zip", "w"):
        pass
    assert "no images in" in refusal(tmp_path / "empty.zip")


@pytest.mark.parametrize("text", ["a/1.png\nb/2.png\n", "path,label\r\n1.png,\u732b\r\n", "\ufeff1.png\n"])
def test_a_text_that_lists_no_file_is_refused_with_its_first_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "list.txt").write_text(text * 500, encoding="utf-8")
    message = refusal(tmp_path / "list.txt")
    assert "is a text file, and its first line is no file in" in message
    assert "a list has one path a line, relative to its folder" in message


def test_a_terminal_is_no_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    with pytest.raises(UsageError, match="reads a list of paths from another program"):
        require_images("-")


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
def test_an_image_is_taken_whatever_it_is_called(tmp_path: Path, image_format: str) -> None:
    (tmp_path / "picture.txt").write_bytes(encode(picture(), image_format))
    require_images(str(tmp_path / "picture.txt"))


def test_a_picture_written_as_text_is_an_image(tmp_path: Path) -> None:
    (tmp_path / "plain.pgm").write_bytes(b"P2 2 2 9\n1 2 3 4\n")
    require_images(str(tmp_path / "plain.pgm"))


def test_damaged_images_are_left_to_the_decoder(tmp_path: Path) -> None:
    for item in malformed_images():
        if item.name.startswith(("png", "jpeg", "gif", "tiff")):
            (tmp_path / item.name).write_bytes(item.data)
            require_images(str(tmp_path / item.name))


def test_a_raw_photo_is_refused_since_only_its_thumbnail_could_be_read(tmp_path: Path) -> None:
    (tmp_path / "1.DNG").write_bytes(encode(picture(), "TIFF"))
    assert "is a raw photo, which is not read" in refusal(tmp_path / "1.DNG")
