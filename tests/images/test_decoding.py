"""Decoding in threads is bounded in memory and in time, and keeps the order of the files."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cifar10.images import named_image, parallel
from cifar10.images.decode import EncodedImage, ImageError, Pixels, decode_image, resize_image
from cifar10.images.named_image import image_file
from cifar10.images.parallel import PATIENCE, decode_batches, decode_files
from cifar10.images.reading import read_image_file
from tests.malformed import encode, picture

SIZE = 16


def write(folder: Path, names: list[str], size: int = 32) -> list[Path]:
    paths = [folder / name for name in names]
    for seed, path in enumerate(paths):
        path.write_bytes(encode(picture(seed, size), "PNG"))
    return paths


def test_a_file_that_takes_too_long_is_given_up_and_the_others_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = write(tmp_path, [f"{number}.png" for number in range(12)])
    goes_on = threading.Event()

    def hang(path: Path, before_reading: Callable[[int], None]) -> bytes:
        if path.name in ("0.png", "3.png", "4.png", "5.png", "6.png"):  # more than there are threads
            goes_on.wait()
        return read_image_file(path, before_reading)

    monkeypatch.setattr(named_image, "read_image_file", hang)
    try:
        decoded = list(decode_files(paths, SIZE, look_ahead=6, patience=0.2))
    finally:
        goes_on.set()
    assert [path for path, _ in decoded] == paths
    late = {path.name for path, result in decoded if isinstance(result, ImageError)}
    assert late >= {"0.png", "3.png", "4.png", "5.png", "6.png"}
    assert str(decoded[0][1]) == "not read and decoded within 0.2 s"
    assert PATIENCE == 120  # seconds, unless told otherwise


@pytest.mark.slow
def test_a_file_that_waits_for_its_turn_is_not_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = write(tmp_path, [f"{number}.png" for number in range(4)], size=24)
    decode = EncodedImage.decode_square

    def slowly(self: EncodedImage, size: int, reduced: bool) -> Pixels:
        time.sleep(0.6)
        return decode(self, size, reduced)

    monkeypatch.setattr(EncodedImage, "decode_square", slowly)
    monkeypatch.setattr(parallel, "_SMALL_IMAGE", 0)
    monkeypatch.setattr(parallel, "_MOST_PIXELS", 24 * 24)  # one at a time: the last waits longer than it may take
    monkeypatch.setattr(parallel, "_TICK", 0.1)
    monkeypatch.setattr("cifar10.images.parallel.num_cpus", lambda: 4)
    results = [result for _, result in decode_files(paths, SIZE, look_ahead=4, patience=1.6)]
    assert not [result for result in results if isinstance(result, ImageError)]


@pytest.mark.parametrize("at_a_time", [1, 2])
def test_no_more_pixels_are_decoded_at_a_time_than_the_budget_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_a_time: int
) -> None:
    paths = write(tmp_path, [f"{number}.png" for number in range(12)], size=24)
    lock, active, most = threading.Lock(), [0], [0]
    decode = EncodedImage.decode_square

    def watched(self: EncodedImage, size: int, reduced: bool) -> Pixels:
        with lock:
            active[0] += 1
            most[0] = max(most[0], active[0])
        time.sleep(0.05)
        try:
            return decode(self, size, reduced)
        finally:
            with lock:
                active[0] -= 1

    monkeypatch.setattr(EncodedImage, "decode_square", watched)
    monkeypatch.setattr(parallel, "_SMALL_IMAGE", 0)
    monkeypatch.setattr(parallel, "_MOST_PIXELS", at_a_time * 24 * 24)
    monkeypatch.setattr("cifar10.images.parallel.num_cpus", lambda: 4)
    for path, pixels in decode_files(paths, SIZE, look_ahead=12):
        np.testing.assert_array_equal(pixels, resize_image(decode_image(path), SIZE))
    assert most[0] <= at_a_time


def test_a_large_file_is_read_while_no_other_picture_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = write(tmp_path, [f"{number}.png" for number in range(8)], size=24)
    active, most = set[int](), [0]

    def watched(path: Path, before_reading: Callable[[int], None]) -> bytes:
        def wait(num_bytes: int) -> None:
            before_reading(num_bytes)
            active.add(threading.get_ident())
            most[0] = max(most[0], len(active))
            time.sleep(0.02)
            active.discard(threading.get_ident())

        return read_image_file(path, wait)

    monkeypatch.setattr(named_image, "read_image_file", watched)
    monkeypatch.setattr(parallel, "_LARGE_FILE", 100)
    monkeypatch.setattr("cifar10.images.parallel.num_cpus", lambda: 4)
    assert len(list(decode_files(paths, SIZE, look_ahead=8))) == 8
    assert most[0] == 1


def test_a_reason_does_not_keep_the_pixels_of_its_picture(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(b"no picture")
    [(_, reason)] = decode_files([tmp_path / "1.png"], SIZE, look_ahead=1)
    assert isinstance(reason, ImageError)
    assert reason.__traceback__ is None and reason.__context__ is None


def test_an_error_that_is_no_reason_reaches_the_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> bytes:
        raise RuntimeError("a bug")

    monkeypatch.setattr(named_image, "read_image_file", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        list(decode_files(write(tmp_path, ["1.png"]), SIZE, look_ahead=1))


def test_a_list_ends_after_so_many_pixels_that_rows_of_photos_come_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [image_file(path) for path in write(tmp_path, [f"{number:02}.png" for number in range(11)], size=32)]
    monkeypatch.setattr(parallel, "_BATCH_PIXELS", 4 * 32 * 32)
    assert [len(part) for part in decode_batches(images, SIZE, batch_size=1000)] == [4, 4, 3]
    assert [len(part) for part in decode_batches(images, SIZE, batch_size=3)] == [3, 3, 3, 2]
