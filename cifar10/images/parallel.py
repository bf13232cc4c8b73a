"""Decode many image files to pixels of one size, in order, with threads and bounded memory."""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, wait
from itertools import islice
from pathlib import Path
from queue import Empty, SimpleQueue

from cifar10.images.decode import MAX_PIXELS, EncodedImage, ImageError, Pixels, read_image_file
from cifar10.images.preprocessing import Size
from cifar10.system.limits import num_cpus

PATIENCE = 120.0
"""Seconds that a file may take to be read and decoded; every supported image takes a fraction of it."""

_MOST_THREADS = 4
_MOST_PIXELS = MAX_PIXELS
"""Pixels that all threads together may decode at a time: one image of 50 megapixels, or four of 12."""
_LARGE_FILE = 32 * 2**20
"""Bytes; a larger file is read and decoded while no other image is."""
_SMALL_IMAGE = 2**18
"""Pixels; smaller images are not counted."""
_TICK = 1.0  # seconds between two checks of the threads

Decoded = tuple[Path, Pixels | ImageError]
"""A file, and its pixels, uint8 (S, S, 3), or the reason why it cannot be decoded."""
_Result = Future[Pixels | ImageError]


def decode_files(
    paths: Iterable[Path], image_size: Size, look_ahead: int, patience: float = PATIENCE
) -> Iterator[Decoded]:
    """Yield each path with its pixels, cropped and resized to `image_size`, or its reason; in the order of `paths`.

    At most `look_ahead` files after the current one are taken from `paths` and decoded ahead of time. A file that
    occupies a thread for longer than `patience` seconds, such as one on an unavailable server, is given up.
    """
    threads = _Threads(image_size, patience)
    jobs = ((path, threads.submit(path)) for path in paths)
    try:
        pending = deque(islice(jobs, look_ahead + 1))
        while pending:
            path, future = pending.popleft()
            yield path, threads.result(future)
            pending.extend(islice(jobs, 1))
    finally:
        threads.close()


def decode_batches(paths: Iterable[Path], image_size: Size, batch_size: int) -> Iterator[list[Decoded]]:
    """Yield the items of `decode_files` in lists with `batch_size` readable images each; the last may have fewer.

    Unreadable files are in the lists too, in order. A list also ends after four times as many files, so that a
    folder of unreadable files is streamed as well. Two lists are in memory at a time.
    """
    batch: list[Decoded] = []
    num_readable = 0
    for item in decode_files(paths, image_size, look_ahead=batch_size):
        batch.append(item)
        num_readable += not isinstance(item[1], ImageError)
        if num_readable == batch_size or len(batch) == 4 * batch_size:
            yield batch
            batch, num_readable = [], 0
    if batch:
        yield batch


class _Threads:
    """Threads that decode. One that takes too long for a file is abandoned and replaced."""

    def __init__(self, image_size: Size, patience: float) -> None:
        self.image_size = image_size
        self.patience = patience
        self.jobs: SimpleQueue[tuple[Path, _Result] | None] = SimpleQueue()  # None ends the thread that takes it
        self.budget = _PixelBudget(_MOST_PIXELS)
        self._threads = [_DecodingThread(self) for _ in range(min(_MOST_THREADS, num_cpus()))]

    def submit(self, path: Path) -> _Result:
        future = _Result()
        self.jobs.put((path, future))
        return future

    def result(self, future: _Result) -> Pixels | ImageError:
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
            path, future = job
            with self._lock:
                self._future, self._busy_since = future, time.monotonic()
            try:
                result: Pixels | ImageError | BaseException = self._decode(path)
            except BaseException as error:  # such as MemoryError: raised in the caller
                result = error
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
            return self._finish(ImageError(f"not read and decoded within {patience:g} s"))

    def _decode(self, path: Path) -> Pixels | ImageError:
        try:
            image = EncodedImage(read_image_file(path, self._wait_to_read))
            if image.num_pixels > _SMALL_IMAGE and not self._held:
                self._take(image.num_pixels)
            return image.decode_square(self._pool.image_size)
        except ImageError as error:
            return ImageError(str(error))  # without the traceback, which would keep all pixels in memory

    def _wait_to_read(self, num_bytes: int) -> None:
        if num_bytes > _LARGE_FILE:
            self._take(_MOST_PIXELS)

    def _take(self, num_pixels: int) -> None:
        with self._lock:
            self._busy_since = None
        self._pool.budget.take(num_pixels)
        with self._lock:
            self._held, self._busy_since = num_pixels, time.monotonic()

    def _finish(self, result: Pixels | ImageError | BaseException) -> bool:
        """Free the budget, set the result and return True; return False if the file was given up before."""
        with self._lock:
            future, held = self._future, self._held
            self._future, self._held, self._busy_since = None, 0, None
        self._pool.budget.give_back(held)
        if future is None:
            return False
        if isinstance(result, BaseException) and not isinstance(result, ImageError):
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
