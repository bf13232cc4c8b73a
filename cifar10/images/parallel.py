"""Decode many images to pixels of one size, in order, with threads and bounded memory."""

import contextlib
import hashlib
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, wait
from dataclasses import replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import NamedTuple

from cifar10.images.decode import MAX_PIXELS, EncodedImage, ImageError, Pixels
from cifar10.images.named_image import BeforeReading, NamedImage, image_file
from cifar10.images.preprocessing import Size
from cifar10.system.limits import num_cpus

PATIENCE = 120.0
"""Seconds that an image may take to be read and decoded; every supported image takes a fraction of it."""

_MOST_THREADS = 4
_MOST_PIXELS = MAX_PIXELS
"""Pixels that all threads together may decode at a time: one image of 50 megapixels, or four of 12."""
_LARGE_FILE = 32 * 2**20
"""Bytes; a larger file is read and decoded while no other image is."""
_MOST_HELD = 64 * 2**20
"""Bytes of encoded images that wait in memory, if their source cannot be read later."""
_SMALL_IMAGE = 2**18
"""Pixels; smaller images are not counted."""
_BATCH_PIXELS = 2**26
"""Pixels that are decoded for a list of `decode_batches`, before they are resized: five photos of 12 megapixels."""
_REMOTE_PIXELS = 2**22
"""Pixels that a remote image counts for at least, since it takes as long: lists of 16."""
_TICK = 1.0  # seconds between two checks of the threads

Decoded = tuple[Path, Pixels | ImageError]
"""A file, and its pixels, uint8 (S, S, 3), or the reason why it cannot be decoded."""


class DecodedImage(NamedTuple):
    """An image that has been read."""

    source: NamedImage
    pixels: Pixels | ImageError
    """uint8 (S, S, 3), or the reason why there are none."""
    num_pixels: int
    """Of the encoded image; 0 if they are not known."""
    sha256: str | None = None
    """SHA-256 of the encoded image, if that was requested and it could be read."""


class _Result(Future[tuple[Pixels | ImageError, int]]):
    sha256: str | None = None


def decode_files(
    paths: Iterable[Path], image_size: Size, look_ahead: int, patience: float = PATIENCE
) -> Iterator[Decoded]:
    """Yield each path with its pixels, cropped and resized to `image_size`, or its reason; see `decode_images`."""
    images = (image_file(path) for path in paths)
    for image in decode_images(images, image_size, look_ahead, patience):
        yield Path(image.source.name), image.pixels


def decode_images(
    images: Iterable[NamedImage],
    image_size: Size,
    look_ahead: int,
    patience: float = PATIENCE,
    reduced: bool = False,
    with_sha256: bool = False,
) -> Iterator[DecodedImage]:
    """Yield each image with its pixels, cropped and resized to `image_size`, or its reason; in the order of `images`.

    At most `look_ahead` images after the current one are taken from `images` and decoded ahead of time. An image that
    occupies a thread for longer than `patience` seconds, such as a file on an unavailable server, is given up.
    `reduced` is that of `EncodedImage.decode_square`.
    """
    threads = _Threads(image_size, patience, reduced, with_sha256)
    pending: deque[tuple[NamedImage, _Result]] = deque()
    num_held = 0
    try:
        for image in images:
            kept = replace(image, read=_was_read) if image.num_bytes else image  # without the encoded bytes
            pending.append((kept, threads.submit(image)))
            num_held += image.num_bytes
            while len(pending) > look_ahead or num_held > _MOST_HELD:
                first, future = pending.popleft()
                num_held -= first.num_bytes
                yield DecodedImage(first, *threads.result(future), future.sha256)
        for first, future in pending:
            yield DecodedImage(first, *threads.result(future), future.sha256)
    finally:
        threads.close()


def decode_batches(
    images: Iterable[NamedImage],
    image_size: Size,
    batch_size: int,
    reduced: bool = False,
    with_sha256: bool = False,
) -> Iterator[list[DecodedImage]]:
    """Yield the items of `decode_images` in lists with `batch_size` readable images each; the last may have fewer.

    Unreadable images are in the lists too, in order. A list also ends after four times as many images, so that a
    folder of unreadable files is streamed as well, and after some 67 megapixels, so that photos are. Two lists are in
    memory at a time.
    """
    batch: list[DecodedImage] = []
    num_readable = num_pixels = 0
    for item in decode_images(images, image_size, batch_size, reduced=reduced, with_sha256=with_sha256):
        batch.append(item)
        num_readable += not isinstance(item.pixels, ImageError)
        num_pixels += max(item.num_pixels, _REMOTE_PIXELS if item.source.is_remote else 0)
        if num_readable == batch_size or len(batch) == 4 * batch_size or num_pixels >= _BATCH_PIXELS:
            yield batch
            batch, num_readable, num_pixels = [], 0, 0
    if batch:
        yield batch


def _was_read(before_reading: BeforeReading) -> bytes:
    raise AssertionError("an image is read once")


class _Threads:
    """Threads that decode. One that takes too long for a file is abandoned and replaced."""

    def __init__(self, image_size: Size, patience: float, reduced: bool, with_sha256: bool) -> None:
        self.image_size = image_size
        self.patience = patience
        self.reduced = reduced
        self.with_sha256 = with_sha256
        self.jobs: SimpleQueue[tuple[NamedImage, _Result] | None] = SimpleQueue()  # None ends the thread that takes it
        self.budget = _PixelBudget(_MOST_PIXELS)
        self._threads = [_DecodingThread(self) for _ in range(min(_MOST_THREADS, num_cpus()))]

    def submit(self, image: NamedImage) -> _Result:
        future = _Result()
        self.jobs.put((image, future))
        return future

    def result(self, future: _Result) -> tuple[Pixels | ImageError, int]:
        while not future.done() and wait([future], min(_TICK, self.patience)).not_done:
            self._threads = [_DecodingThread(self) if thread.is_given_up() else thread for thread in self._threads]
        return future.result()

    def close(self) -> None:
        """Drop the jobs that have not started and wait for the others, but for no thread longer than `patience`."""
        with contextlib.suppress(Empty):
            while True:
                self.jobs.get_nowait()
        for _ in self._threads:
            self.jobs.put(None)
        while any(thread.is_alive() for thread in self._threads):
            self._threads[0].join(min(_TICK, self.patience))
            self._threads = [thread for thread in self._threads if thread.is_alive() and not thread.is_given_up()]


class _DecodingThread(threading.Thread):
    """Runs one job after the other. A daemon: one that hangs in the kernel does not prevent the process from ending."""

    def __init__(self, pool: _Threads) -> None:
        super().__init__(name="decode", daemon=True)
        self._pool = pool
        self._lock = threading.RLock()  # for the three below
        self._future: _Result | None = None
        self._held = 0  # pixels of the budget
        self._busy_since: float | None = None  # None while it waits for its turn
        self.start()

    def run(self) -> None:
        while (job := self._pool.jobs.get()) is not None:
            image, future = job
            with self._lock:
                self._future, self._busy_since = future, time.monotonic()
            try:
                result: tuple[Pixels | ImageError, int] | BaseException = self._decode(image, future)
            except BaseException as error:  # such as MemoryError: raised in the caller
                result = error
            del image, job  # they may hold the encoded bytes
            if not self._finish(result):
                return

    def is_given_up(self) -> bool:
        """Fail a file that takes too long, and return whether there is one.

        Its part of the budget becomes free; the thread ends if it is ever done with the file.
        """
        with self._lock:
            since, patience = self._busy_since, self._pool.patience
            if since is None or time.monotonic() - since <= patience:
                return False
            return self._finish((ImageError(f"not read and decoded within {patience:g} s"), 0))

    def _decode(self, image: NamedImage, future: _Result) -> tuple[Pixels | ImageError, int]:
        num_pixels = 0
        try:
            data = image.read(self._wait_to_read)
            if self._pool.with_sha256:
                future.sha256 = hashlib.sha256(data).hexdigest()
            encoded = EncodedImage(data)
            num_pixels = encoded.num_pixels
            if num_pixels > _SMALL_IMAGE and not self._held:
                self._take(num_pixels)
            return encoded.decode_square(self._pool.image_size, self._pool.reduced), num_pixels
        except ImageError as error:
            return ImageError(str(error)), num_pixels  # without the traceback, which would keep all pixels in memory

    def _wait_to_read(self, num_bytes: int) -> None:
        if num_bytes > _LARGE_FILE:
            self._take(_MOST_PIXELS)

    def _take(self, num_pixels: int) -> None:
        with self._lock:
            self._busy_since = None
        self._pool.budget.take(num_pixels)
        with self._lock:
            self._held, self._busy_since = num_pixels, time.monotonic()

    def _finish(self, result: tuple[Pixels | ImageError, int] | BaseException) -> bool:
        """Free the budget, set the result and return True; return False if the image was given up before."""
        with self._lock:
            future, held = self._future, self._held
            self._future, self._held, self._busy_since = None, 0, None
        if held:
            self._pool.budget.give_back(held)
        if future is None:
            return False
        if isinstance(result, BaseException):
            future.set_exception(result)
        else:
            future.set_result(result)
        return True


class _PixelBudget:
    """Limits how many pixels are decoded at a time."""

    def __init__(self, num_pixels: int) -> None:
        self._left = num_pixels
        self._changed = threading.Condition()

    def take(self, num_pixels: int) -> None:
        """Wait until `num_pixels` are left, and take them."""
        with self._changed:
            self._changed.wait_for(lambda: self._left >= num_pixels)
            self._left -= num_pixels

    def give_back(self, num_pixels: int) -> None:
        with self._changed:
            self._left += num_pixels
            self._changed.notify_all()
