"""Decoded photos in a memory-mapped file: decoded once, in parallel, and read from there by every later run.

    CACHE/NAME-224px-0123456789abcdef/pixels.npy    uint8 (M, 3, S, S), one row for each file
                                      records.npy   (M,), one `RECORD` for each file

A store is named after its content: paths, sizes and modification times of the files, and S. It gets its name when it is
complete. An interrupted one (`.partial`) is continued, and rows of unchanged files are copied from older stores.

Shapes: M files, S x S pixels.
"""

import glob
import hashlib
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from filelock import FileLock, Timeout
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from tqdm import tqdm

from cifar10.data.duplicates import FINGERPRINT, fingerprint
from cifar10.data.image_dataset import DataError
from cifar10.files import sync_folder
from cifar10.images.decode import ImageError
from cifar10.images.parallel import decode_files
from cifar10.system.array_files import DAMAGED_ARRAYS
from cifar10.system.streams import print_message
from cifar10.wording import counted

RECORD = np.dtype(
    [("state", "u1"), ("file", "<u8"), ("fingerprint", FINGERPRINT), ("reason", "S200")],
)
"""State: 0 not decoded yet, 1 decoded, 2 unreadable, for `reason` in UTF-8. File: hash of path, size and time."""
_MISSING, _DECODED, _UNREADABLE = range(3)

_VERSION = 1  # raise it if the decoder returns other pixels for the same file
_BYTES_AHEAD = 2**25  # of images that are decoded ahead of time
_AT_ONCE = 256  # files between two points from which an interrupted store is continued
_PIXELS, _RECORDS = "pixels.npy", "records.npy"
_LOGGER = logging.getLogger(__name__)


class PhotoStore(NamedTuple):
    """The decoded files, in their order."""

    pixels: NDArray[np.uint8]
    """(M, 3, S, S), memory-mapped; zero for a file that is unreadable."""
    records: NDArray[Any]
    """(M,) of type `RECORD`."""

    @property
    def readable(self) -> NDArray[np.int64]:
        """The positions of the files that could be read."""
        return np.flatnonzero(self.records["state"] == _DECODED)

    @property
    def unreadable(self) -> Iterator[tuple[int, str]]:
        """The positions of the other files, with the reasons."""
        for position in np.flatnonzero(self.records["state"] == _UNREADABLE).tolist():
            yield position, self.records["reason"][position].decode(errors="replace")


def open_store(files: Sequence[Path], root: Path, image_size: int, cache: Path) -> PhotoStore:
    """Return the decoded `files`, after decoding those that no store in the folder `cache` has.

    Args:
        files: Image files.
        root: The folder that they are in; a store is found again after it has moved.
        image_size: S.
        cache: Folder of the stores, which is made if necessary.

    Raises:
        DataError: The store cannot be written.
    """
    keys = np.array([_file_key(path, root) for path in files], np.uint64)
    digest = hashlib.blake2b(keys.tobytes(), digest_size=8, person=f"{_VERSION} {image_size}".encode()).hexdigest()
    folder = cache / f"{root.absolute().name[:60]}-{image_size}px-{digest}"
    try:
        if (store := _opened(folder, keys, image_size)) is None:
            cache.mkdir(parents=True, exist_ok=True)
            with _only_one_process(folder):
                store = _opened(folder, keys, image_size) or _build(files, keys, folder, image_size)
    except OSError as error:
        needed = len(files) * 3 * image_size**2 / 2**30
        raise DataError(
            f"the decoded images, {needed:.1f} GB, cannot be kept in {folder} ({error.strerror or error}); "
            "choose another folder: data_loading.cache=DIR"
        ) from error
    return store


def _only_one_process(folder: Path) -> AbstractContextManager[object]:
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        _LOGGER.warning("%s: waiting for another process, which decodes the images", folder)
        return lock.acquire()


def _file_key(path: Path, root: Path) -> int:
    """Return a hash of the path below `root`, the size and the modification time."""
    try:
        status = os.stat(path)
        state = f"{status.st_size} {status.st_mtime_ns}"
    except OSError:
        state = "missing"
    key = b"\0".join([os.fsencode(path.relative_to(root)), state.encode()])
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little")


def _opened(folder: Path, keys: NDArray[np.uint64], image_size: int) -> PhotoStore | None:
    """Return the complete store in `folder`; None if there is none, or if it is damaged."""
    store = _mapped(folder, image_size)
    if store is None or not np.array_equal(store.records["file"], keys):
        return None
    return store if np.isin(store.records["state"], (_DECODED, _UNREADABLE)).all() else None


def _mapped(folder: Path, image_size: int, mode: Literal["r", "r+"] = "r") -> PhotoStore | None:
    """Return the arrays in `folder`; None if a file is missing or damaged, or they do not belong together."""
    files = [folder / name for name in (_PIXELS, _RECORDS)]
    if not all(file.is_file() for file in files):  # opening a pipe may not end
        return None
    try:
        pixels, records = (open_memmap(file, mode) for file in files)
    except DAMAGED_ARRAYS:
        return None
    shape = (len(records), 3, image_size, image_size) if records.ndim == 1 else ()
    is_ours = records.dtype == RECORD and pixels.dtype == np.uint8 and pixels.shape == shape
    return PhotoStore(pixels, records) if is_ours and pixels.flags.c_contiguous else None


def _build(files: Sequence[Path], keys: NDArray[np.uint64], folder: Path, image_size: int) -> PhotoStore:
    partial = folder.with_name(f"{folder.name}.partial")
    store = _continued(partial, keys, image_size) or _begun(partial, keys, image_size)
    _copy_known_rows(store, folder)
    missing = np.flatnonzero(store.records["state"] == _MISSING)
    if len(missing):
        print_message(f"decoding {counted(len(missing), 'image')} into {folder}, for this and later runs")
    _decode(files, missing, store, image_size)
    shutil.rmtree(folder, ignore_errors=True)  # a damaged one
    os.replace(partial, folder)
    sync_folder(folder.parent)
    opened = _opened(folder, keys, image_size)
    assert opened is not None
    return opened


def _continued(partial: Path, keys: NDArray[np.uint64], image_size: int) -> PhotoStore | None:
    """Return the interrupted store in `partial`; None if there is none."""
    store = _mapped(partial, image_size, "r+")
    return store if store is not None and np.array_equal(store.records["file"], keys) else None


def _begun(partial: Path, keys: NDArray[np.uint64], image_size: int) -> PhotoStore:
    """Make an empty store, whose space on the disk is reserved: a full disk would kill the process later."""
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    pixels = open_memmap(partial / _PIXELS, "w+", np.uint8, (len(keys), 3, image_size, image_size))
    records = open_memmap(partial / _RECORDS, "w+", RECORD, (len(keys),))
    if hasattr(os, "posix_fallocate"):
        for name in (_PIXELS, _RECORDS):
            with (partial / name).open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
    records["file"] = keys
    return PhotoStore(pixels, records)


def _copy_known_rows(store: PhotoStore, folder: Path) -> None:
    """Copy the rows of files that older stores of the same folder and image size have."""
    pattern = f"{glob.escape(folder.name.rpartition('-')[0])}-*"
    for older in sorted(folder.parent.glob(pattern)):
        known_store = None if older.suffix == ".partial" else _mapped(older, store.pixels.shape[-1])
        if known_store is None:
            continue
        pixels, records = known_store
        rows = {key: row for row, key in enumerate(records["file"].tolist()) if records["state"][row] == _DECODED}
        for row in np.flatnonzero(store.records["state"] == _MISSING).tolist():
            if (known := rows.get(int(store.records["file"][row]))) is not None:
                store.pixels[row] = pixels[known]
                store.records[row] = records[known]


def _decode(files: Sequence[Path], missing: NDArray[np.int64], store: PhotoStore, image_size: int) -> None:
    """Decode the files at the positions `missing`. A row counts as decoded when its pixels are in the file."""
    look_ahead = max(8, min(256, _BYTES_AHEAD // (3 * image_size**2)))
    decoded = decode_files((files[position] for position in missing), image_size, look_ahead)
    progress = tqdm(decoded, "decoding", total=len(missing), unit=" images", disable=None, leave=False)
    waiting: dict[int, NDArray[Any]] = {}
    for position, (_, pixels) in zip(missing.tolist(), progress, strict=True):
        record = store.records[position].copy()
        if isinstance(pixels, ImageError):
            record["state"], record["reason"] = _UNREADABLE, str(pixels).encode()[:200]
        else:
            store.pixels[position] = pixels.transpose(2, 0, 1)
            record["state"], record["fingerprint"] = _DECODED, fingerprint(store.pixels[position])
        waiting[position] = record
        if len(waiting) == _AT_ONCE:
            _write_records(store, waiting)
    _write_records(store, waiting)


def _write_records(store: PhotoStore, waiting: dict[int, NDArray[Any]]) -> None:
    """Write records after their pixels, also to the disk, so that a power cut leaves no row decoded that is not."""
    _flush(store.pixels)
    for position, record in waiting.items():
        store.records[position] = record
    _flush(store.records)
    waiting.clear()


def _flush(array: NDArray[Any]) -> None:
    assert isinstance(array, np.memmap)
    array.flush()
