"""Decode many image files to pixels of one size, in order, with threads and bounded memory."""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path
from queue import Empty, SimpleQueue

from cifar10.images.decode import MAX_PIXELS, EncodedImage, ImageError, Pixels, read_image_file
from cifar10.system.limits import num_cpus

PATIENCE = 120.0
"""Seconds that a file may take to be read and decoded; all that `images` does not refuse takes a fraction of it."""

_MOST_THREADS = 4
_MOST_PIXELS = MAX_PIXELS
"""Pixels that all threads together may decode at a time: one picture of 50 megapixels, or four of 12."""
_LARGE_FILE = 32 * 2**20
"""Bytes; a larger file is read and decoded while no other picture is."""
_SMALL_IMAGE = 2**18
"""Pixels; smaller ones do not count."""
_TICK = 1.0  # seconds between two looks at the threads

Decoded = tuple[Path, Pixels | ImageError]
"""A file, and its pixels, uint8 (S, S, 3), or the reason why there are none."""


def decode_files(
    paths: Iterable[Path], image_size: int, look_ahead: int, patience: float = PATIENCE
) -> Iterator[Decoded]:
    """Yield each path with its pixels, resized to S = `image_size`, or its reason; in the order of `paths`.

    At most `look_ahead` files after the current one are taken from `paths` and decoded ahead of time. A file
    that keeps a thread for longer than `patience` seconds, such as one on a server that is away, is given up.
    """
    threads = _Threads(image_size, patience)
    pending: deque[tuple[Path, Future[Pixels | ImageError]]] = deque()
    try:
        for path in paths:
            pending.append((path, threads.submit(path)))
            if len(pending) > look_ahead:
                first, future = pending.popleft()
                yield first, threads.result(future)
        while pending:
            first, future = pending.popleft()
            yield first, threads.result(future)
    finally:
        threads.close()


def decode_batches(paths: Iterable[Path], image_size: int, batch_size: int) -> Iterator[list[Decoded]]:
    """Yield what `decode_files` yields in lists that hold `batch_size` readable images each, but for the last.

    Files that cannot be read stand between them in order. A list also ends after four times as many files, so that a
    folder of nothing but unreadable files is streamed as well. Two lists are in memory at a time.
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
    """Threads that decode. One that is kept too long is left to itself, and another takes its place."""

    def __init__(self, image_size: int, patience: float) -> None:
        self._image_size = image_size
        self._patience = patience
        self._jobs: _Jobs = SimpleQueue()
        self._budget = _PixelBudget(_MOST_PIXELS)
        self._threads = [self._start() for _ in range(min(_MOST_THREADS, num_cpus()))]

    def submit(self, path: Path) -> "Future[Pixels | ImageError]":
        future: Future[Pixels | ImageError] = Future()
        self._jobs.put((path, future))
        return future

    def result(self, future: "Future[Pixels | ImageError]") -> Pixels | ImageError:
        while True:
            try:
                return future.result(timeout=min(_TICK, self._patience))
            except TimeoutError:
                if future.done():  # between the two lines
                    continue
                self._replace_stuck()

    def close(self) -> None:
        """Drop what has not begun and wait for the rest, but for no thread longer than `patience`."""
        with contextlib.suppress(Empty):
            while True:
                self._jobs.get_nowait()
        for _ in self._threads:
            self._jobs.put(None)
        while any(thread.is_alive() for thread in self._threads):
            self._threads[0].join(min(_TICK, self._patience))
            self._threads = [thread for thread in self._threads if thread.is_alive() and not thread.give_up_if_stuck()]

    def _start(self) -> "_DecodingThread":
        thread = _DecodingThread(self._jobs, self._budget, self._image_size, self._patience)
        thread.start()
        return thread

    def _replace_stuck(self) -> None:
        for position, thread in enumerate(self._threads):
            if thread.give_up_if_stuck():
                self._threads[position] = self._start()


_Jobs = SimpleQueue[tuple[Path, Future[Pixels | ImageError]] | None]
"""None ends the thread that takes it."""


class _DecodingThread(threading.Thread):
    """Takes one job after the other. A daemon: one that hangs in the kernel does not keep the process from ending."""

    def __init__(self, jobs: _Jobs, budget: "_PixelBudget", image_size: int, patience: float) -> None:
        super().__init__(name="decode", daemon=True)
        self._jobs = jobs
        self._budget = budget
        self._image_size = image_size
        self._patience = patience
        self._lock = threading.Lock()  # over the three below
        self._future: Future[Pixels | ImageError] | None = None
        self._held = 0  # pixels of the budget
        self._busy_since: float | None = None  # None while it waits for its turn

    def run(self) -> None:
        while (job := self._jobs.get()) is not None:
            path, future = job
            with self._lock:
                self._future, self._busy_since = future, time.monotonic()
            try:
                result: Pixels | ImageError | BaseException = self._decode(path)
            except BaseException as error:  # such as MemoryError: for the caller
                result = error
            if not self._finish(result):
                return

    def give_up_if_stuck(self) -> bool:
        """Fail a file that takes longer than it may, and return whether there is one.

        Others then have its part of the budget; the thread ends should its file ever be done.
        """
        with self._lock:
            since = self._busy_since
            if since is None or time.monotonic() - since <= self._patience:
                return False
            job = self._let_go()
        self._answer(*job, ImageError(f"not read and decoded within {self._patience:g} s"))
        return True

    def _decode(self, path: Path) -> Pixels | ImageError:
        try:
            image = EncodedImage(read_image_file(path, self._wait_to_read))
            if image.num_pixels > _SMALL_IMAGE and not self._held:
                self._take(image.num_pixels)
            return image.decode_square(self._image_size)
        except ImageError as error:
            return ImageError(str(error))  # without the traceback, which would keep all pixels in memory

    def _wait_to_read(self, num_bytes: int) -> None:
        if num_bytes > _LARGE_FILE:
            self._take(_MOST_PIXELS)

    def _take(self, num_pixels: int) -> None:
        with self._lock:
            self._busy_since = None
        self._budget.take(num_pixels)
        with self._lock:
            self._held, self._busy_since = num_pixels, time.monotonic()

    def _finish(self, result: Pixels | ImageError | BaseException) -> bool:
        """Pass `result` on and return True, or False if it was given up."""
        with self._lock:
            future, held = self._let_go()
        self._answer(future, held, result)
        return future is not None

    def _let_go(self) -> "tuple[Future[Pixels | ImageError] | None, int]":
        job = self._future, self._held
        self._future, self._held, self._busy_since = None, 0, None
        return job

    def _answer(
        self, future: "Future[Pixels | ImageError] | None", held: int, result: Pixels | ImageError | BaseException
    ) -> None:
        self._budget.give_back(held)
        if future is None:
            return
        if isinstance(result, BaseException) and not isinstance(result, ImageError):
            future.set_exception(result)
        else:
            future.set_result(result)


class _PixelBudget:
    """So many pixels and no more are decoded at a time."""

    def __init__(self, num_pixels: int) -> None:
        self._left = num_pixels
        self._changed = threading.Condition()

    def take(self, num_pixels: int) -> None:
        """Wait until so many are left, and take them."""
        with self._changed:
            self._changed.wait_for(lambda: self._left >= num_pixels)
            self._left -= num_pixels

    def give_back(self, num_pixels: int) -> None:
        if not num_pixels:
            return
        with self._changed:
            self._left += num_pixels
            self._changed.notify_all()
