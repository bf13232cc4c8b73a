"""The rows of a result file that is not complete yet, in `FILE.partial` beside it; an interrupted run continues there.

The first line holds what the predictions depend on, every further line one row, as JSON. Rows are appended a batch at
a time, so that a process which is killed loses no batch that it has written; half a line at the end, and whatever
follows a damaged line, is cut off and computed again. Images are found in the same order each time: the rows that are
kept must be those of the first images, so that each image gets one row.
"""

import dataclasses
import errno
import fcntl
import json
import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from cifar10.data.class_names import printable
from cifar10.errors import UserError
from cifar10.files import DISK_ERRORS, remove_leftovers, sync_folder
from cifar10.images.named_image import NamedImage
from cifar10.inference.destination import BEING_WRITTEN, partial_path, refuse_unfinished
from cifar10.inference.prediction import GroupResult, ImageResult, Prediction

_LOGGER = logging.getLogger(__name__)
_FORMAT = {"format": "1"}
_ROWS_AT_ONCE = 1000
_OWN = ("path", "top", "group", "provenance")
_OTHERS = tuple(field.name for field in dataclasses.fields(ImageResult) if field.name not in _OWN)
"""Fields of a row that are stored as they are."""


@contextmanager
def open_journal(
    path: Path, class_names: Sequence[str], fingerprint: Mapping[str, str], resume: bool
) -> Iterator["Journal"]:
    """Open the journal of the result file `path`, for this process alone. It stays, unless it has no rows.

    Args:
        path: The result file.
        class_names: In the order of their ids.
        fingerprint: What the rows depend on; it must be the same when a run continues.
        resume: Continue the rows that are there, if there are any.

    Raises:
        UsageError: There are rows already, and `resume` is false.
        UserError: They depend on something else, another process writes them, or the disk is full.
    """
    partial = partial_path(path)
    refuse_unfinished(path, resume)
    with _disk_errors(partial), partial.open("a+b", buffering=0) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            raise UserError(f"{partial} {BEING_WRITTEN}") from None
        journal = Journal(file, partial, class_names, {**_FORMAT, **fingerprint})
        remove_leftovers(path)
        try:
            yield journal
        finally:
            if journal.is_empty:
                partial.unlink(missing_ok=True)


class Journal:
    """Rows on disk.

    Args:
        file: Open for reading and appending.
        path: Its name.
        class_names: In the order of their ids.
        fingerprint: What the rows depend on.

    Raises:
        UserError: The rows in the file depend on something else, or it was not written by this program.
    """

    def __init__(self, file: BinaryIO, path: Path, class_names: Sequence[str], fingerprint: Mapping[str, str]) -> None:
        self._file, self._path, self._class_names = file, path, class_names
        self.num_rows = 0
        """Rows that are in the file, as far as it has been read or written."""
        self._num_damaged = 0
        file.seek(0)
        header = file.readline()
        found = _parsed(header)
        if _is_half_a_header(header, os.fstat(file.fileno()).st_size):
            file.truncate(0)
            header = _line(dict(fingerprint))
            file.write(header)
        elif not isinstance(found, dict) or "format" not in found:
            raise UserError(f"{path} holds no rows of an interrupted run; move it away, or name another --output")
        elif found != fingerprint:
            raise UserError(_differences(path, found, fingerprint))
        self._start = len(header)

    @property
    def is_empty(self) -> bool:
        """Whether the file holds no rows."""
        return os.fstat(self._file.fileno()).st_size <= self._start

    def resumed(self, images: Iterator[NamedImage]) -> Iterator[list[ImageResult]]:
        """Yield the rows that are kept, take as many from `images`, and cut off what is behind the last whole row.

        Raises:
            UserError: The first images are others than those of the rows.
        """
        end = self._start
        for part in self._whole_rows():
            rows = [row for row, _ in part]
            for row in rows:
                self.num_rows += 1
                image = next(images, None)
                if image is None or image.name != row.path:
                    now = "missing" if image is None else printable(image.name)
                    raise UserError(
                        f"{self._path}: the images have changed since: number {self.num_rows:,} was "
                        f"{printable(row.path)} and is {now}; delete that file to start again"
                    )
            end += sum(length for _, length in part)
            yield rows
        if self._num_damaged:
            damage = f"{self._path}: the line after {self.num_rows:,} rows is damaged"
            _LOGGER.warning("%s; it and the %s lines behind it are computed again", damage, f"{self._num_damaged:,}")
        self._file.truncate(end)

    def write(self, rows: Sequence[ImageResult]) -> None:
        """Append `rows`."""
        data = memoryview(b"".join(_line(_values(row)) for row in rows))
        with _disk_errors(self._path):
            while data:
                data = data[self._file.write(data) :]
        self.num_rows += len(rows)

    def rows(self) -> Iterator[list[ImageResult]]:
        """Yield all rows."""
        for part in self._whole_rows():
            yield [row for row, _ in part]

    def remove(self) -> None:
        """Delete the file: its rows are elsewhere."""
        self._path.unlink(missing_ok=True)
        sync_folder(self._path.parent)
        self.num_rows = 0

    def _whole_rows(self) -> Iterator[list[tuple[ImageResult, int]]]:
        """Yield rows and the lengths of their lines in bytes, up to the first line that is not a row."""
        # The open file, not its name: it may have been deleted since.
        with os.fdopen(os.dup(self._file.fileno()), "rb") as file:
            file.seek(self._start)
            whole = self._until_damaged(file)
            while part := list(islice(whole, _ROWS_AT_ONCE)):
                yield part

    def _until_damaged(self, lines: BinaryIO) -> Iterator[tuple[ImageResult, int]]:
        for line in lines:
            try:
                yield self._row(_parsed(line)), len(line)
            except (ValueError, TypeError):
                self._num_damaged = sum(1 for _ in lines)
                return

    def _row(self, values: Any) -> ImageResult:
        """Return the row of a parsed line.

        Raises:
            ValueError, TypeError: It is not one.
        """
        path, top, group, *others = values
        if not all(text is None or isinstance(text, str) for text in (path or 0, *others)):
            raise ValueError("a column is not a text")
        found = tuple(self._prediction(class_id, probability) for class_id, probability in top)
        groups = None if group is None else GroupResult(*group)
        return ImageResult(path, found, group=groups, **dict(zip(_OTHERS, others, strict=True)))

    def _prediction(self, class_id: Any, probability: Any) -> Prediction:
        if class_id not in range(len(self._class_names)) or not math.isfinite(probability):
            raise ValueError("there is no such class or probability")
        return Prediction(self._class_names[class_id], class_id, probability)


def _is_half_a_header(line: bytes, file_size: int) -> bool:
    """Whether a file with this first line is new, or was being begun when its process or the machine stopped."""
    start, written = _line(_FORMAT)[:-2], line.rstrip(b"\0")  # NUL: a block that did not reach the disk
    return len(line) == file_size and not line.endswith(b"\n") and start[: len(written)] == written[: len(start)]


def _values(row: ImageResult) -> list[Any]:
    top = [(one.class_id, one.probability) for one in row.top]
    group = None if row.group is None else (row.group.name, row.group.probabilities)
    return [row.path, top, group, *(getattr(row, name) for name in _OTHERS)]


def _line(values: object) -> bytes:
    return json.dumps(values).encode("ascii") + b"\n"


def _parsed(line: bytes) -> Any:
    """Return the value of a whole line, or None."""
    if not line.endswith(b"\n"):
        return None
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _differences(path: Path, then: Mapping[str, Any], now: Mapping[str, str]) -> str:
    keys = [key for key in {**then, **now} if then.get(key) != now.get(key)]
    changed = "; ".join(f"{key} was {_shown(then.get(key))} and is {_shown(now.get(key))}" for key in keys[:3])
    return f"{path} holds the rows of another run: {changed}; repeat that command, or delete that file to start again"


def _shown(value: object) -> str:
    return "not given" if value is None else printable(str(value))[:60]


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        kept = "; its rows are kept, continue with --resume" if path.exists() and path.stat().st_size else ""
        raise UserError(f"{path} could not be written: {error.strerror}{kept}") from error
