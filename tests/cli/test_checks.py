"""What --test_dir cannot be is said in one line, with the way out."""

import gzip
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


def test_an_archive_is_to_be_unpacked_first(tmp_path: Path) -> None:
    picture_file = tmp_path / "1.png"
    picture_file.write_bytes(encode(picture(), "PNG"))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.write(picture_file)
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(picture_file)
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress((tmp_path / "a.tar").read_bytes()))
    for name, kind in {"a.zip": "zip", "a.tar": "tar", "a.tar.gz": "gzip"}.items():
        assert f"is a {kind} archive; unpack it first, and name the folder" in refusal(tmp_path / name)


@pytest.mark.parametrize("text", ["a/1.png\nb/2.png\n", "path,label\r\n1.png,\u732b\r\n", "\ufeff1.png\n"])
def test_a_list_of_images_is_told_from_an_image(tmp_path: Path, text: str) -> None:
    (tmp_path / "list.txt").write_text(text * 500, encoding="utf-8")
    assert "is a text file; name the folder" in refusal(tmp_path / "list.txt")


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


def test_a_folder_of_nothing_but_heic_photos_says_so_and_how_to_convert_them(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"IMG_{number}.HEIC").touch()
    assert "passed over: 3 HEIC photo; convert HEIC photos to JPEG first (heif-convert" in refusal(tmp_path)


def test_a_raw_photo_is_refused_since_only_its_thumbnail_could_be_read(tmp_path: Path) -> None:
    (tmp_path / "1.DNG").write_bytes(encode(picture(), "TIFF"))
    assert "is a raw photo, which is not read" in refusal(tmp_path / "1.DNG")
