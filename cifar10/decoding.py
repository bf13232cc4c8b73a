"""Many image files -> pixels of one size, in order, decoded by threads that run a bounded way ahead."""

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from cifar10.images import ImageError, Pixels, decode_image, resize_image

_MOST_THREADS = 4  # decoding 50 megapixels takes 0.5 GB

Decoded = tuple[Path, Pixels | ImageError]
"""A file, and its pixels, uint8 (S, S, 3), or the reason why there are none."""


def decode_files(paths: Iterable[Path], image_size: int, look_ahead: int) -> Iterator[Decoded]:
    """Yield each path with its pixels, resized to S = `image_size`, or its reason; in the order of `paths`.

    Up to `look_ahead` files beyond the one that is asked for are taken from `paths` and decoded, never more.
    """
    pool = ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1), thread_name_prefix="decode")
    pending: deque[tuple[Path, Future[Pixels | ImageError]]] = deque()
    try:
        for path in paths:
            pending.append((path, pool.submit(_decode, path, image_size)))
            if len(pending) > look_ahead:
                first, future = pending.popleft()
                yield first, future.result()
        while pending:
            first, future = pending.popleft()
            yield first, future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _decode(path: Path, image_size: int) -> Pixels | ImageError:
    try:
        return resize_image(decode_image(path), image_size)
    except ImageError as error:
        return error
