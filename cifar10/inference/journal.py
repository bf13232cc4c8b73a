"""The rows of a result file that is not complete yet, in `FILE.partial` beside it; an interrupted run continues there.

The first line holds what the predictions depend on, every further line one row, as JSON. Rows are appended a batch at
a time, so that a process which is killed loses no batch that it has written; half a line at the end is cut off. Images
are found in the same order each time: the rows that are kept must be those of the first images, so that each image gets
one row.
"""

import dataclasses
import errno
import fcntl
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from cifar10.data.class_names import printable
from cifar10.errors import UserError
from cifar10.files import DISK_ERRORS, sync_folder
from cifar10.images.named_image import NamedImage
from cifar10.inference.destination import partial_path, refuse_unfinished
from cifar10.inference.prediction import GroupResult, ImageResult, Prediction

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
            raise UserError(f"{partial} is being written by another process; wait for it, or stop it") from None
        journal = Journal(file, partial, class_names, {**_FORMAT, **fingerprint})
        try:
            yield journal
        finally:
            if not journal.num_rows:
                partial.unlink(missing_ok=True)


class Journal:
    """Rows on disk.

    Args:
        file: Open for reading and appending.
        path: Its name.
        class_names: In the order of their ids.
        fingerprint: What the rows depend on.

    Raises:
        UserError: The rows in the file depend on something else.
    """

    def __init__(self, file: BinaryIO, path: Path, class_names: Sequence[str], fingerprint: Mapping[str, str]) -> None:
        self._file, self._path, self._class_names = file, path, class_names
        self.num_rows = 0
        """Rows that are in the file, as far as it has been read or written."""
        file.seek(0)
        header = file.readline()
        found = _parsed(header)
        if not isinstance(found, dict):  # a new file, or half a first line
            file.truncate(0)
            header = _line(dict(fingerprint))
            file.write(header)
        elif found != fingerprint:
            self.num_rows = 1  # it has rows, which are not deleted
            raise UserError(_differences(path, found, fingerprint))
        self._start = len(header)

    def resumed(self, images: Iterator[NamedImage]) -> Iterator[list[ImageResult]]:
        """Yield the rows that are kept, take as many from `images`, and cut off what is behind the last whole row.

        Raises:
            UserError: The first images are others than those of the rows.
        """
        end = self._start
        for lines in self._whole_lines():
            rows = [self._row(values) for values, _ in lines]
            for row in rows:
                self.num_rows += 1
                image = next(images, None)
                if image is None or image.name != row.path:
                    now = "missing" if image is None else printable(image.name)
                    raise UserError(
                        f"{self._path}: the images have changed since: number {self.num_rows:,} was "
                        f"{printable(row.path)} and is {now}; delete that file to start again"
                    )
            end += sum(length for _, length in lines)
            yield rows
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
        for lines in self._whole_lines():
            yield [self._row(values) for values, _ in lines]

    def remove(self) -> None:
        """Delete the file: its rows are elsewhere."""
        self._path.unlink(missing_ok=True)
        sync_folder(self._path.parent)
        self.num_rows = 0

    def _whole_lines(self) -> Iterator[list[tuple[list[Any], int]]]:
        """Yield parsed lines and their lengths in bytes, up to the first that is not whole."""
        with open(self._path, "rb") as file:
            file.seek(self._start)
            lines = ((_parsed(line), len(line)) for line in file)
            whole = ((values, length) for values, length in _until_damaged(lines))
            while part := list(islice(whole, _ROWS_AT_ONCE)):
                yield part

    def _row(self, values: list[Any]) -> ImageResult:
        path, top, group, *others = values
        found = tuple(Prediction(self._class_names[class_id], class_id, value) for class_id, value in top)
        groups = None if group is None else GroupResult(*group)
        return ImageResult(path, found, group=groups, **dict(zip(_OTHERS, others, strict=True)))


def _until_damaged(lines: Iterator[tuple[Any, int]]) -> Iterator[tuple[list[Any], int]]:
    for values, length in lines:
        if not isinstance(values, list) or len(values) != 3 + len(_OTHERS):
            return
        yield values, length


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
    except ValueError:
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
        raise UserError(
            f"{path} could not be written: {error.strerror}; its rows are kept, continue with --resume"
        ) from error
