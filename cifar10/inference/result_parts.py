"""Write results to a folder of numbered files, which appears when it is complete."""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from cifar10.errors import UsageError
from cifar10.files import make_output_folder, sync_folder, temporary_path
from cifar10.inference.destination import Destination, Format
from cifar10.inference.prediction import ImageResult
from cifar10.inference.results import open_results

_PART_ROWS = 100_000


@dataclass(frozen=True)
class PartFolder:
    """A folder that does not exist or is empty, for files in one format."""

    path: Path
    format: Format

    def __post_init__(self) -> None:
        if self.format == "table":
            raise UsageError("--format=table is for reading; choose parquet, csv or jsonl for a folder")
        if os.path.lexists(self.path) and not (self.path.is_dir() and not any(self.path.iterdir())):
            raise UsageError(f"--output: {self.path} is there already and not an empty folder; name another")
        if not self.path.absolute().parent.is_dir():
            raise UsageError(f"--output: there is no folder {self.path.absolute().parent}; make it first")


@contextmanager
def open_parts(
    folder: PartFolder,
    class_names: Sequence[str],
    top_k: int,
    provenance: Mapping[str, str],
    receipt: Mapping[str, str] | None = None,
) -> Iterator["PartWriter"]:
    """Yield a writer of rows; arguments as for `open_results`. The folder appears at the end, if nothing is raised."""
    scratch = temporary_path(folder.path)
    make_output_folder(scratch)
    try:
        with ExitStack() as stack:
            yield PartWriter(scratch, folder.format, class_names, top_k, provenance, receipt, stack)
        os.replace(scratch, folder.path)  # an empty folder may be there
        sync_folder(folder.path.absolute().parent)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


class PartWriter:
    """Writes up to 100,000 rows and a batch to each file."""

    def __init__(
        self,
        folder: Path,
        output_format: Format,
        class_names: Sequence[str],
        top_k: int,
        provenance: Mapping[str, str],
        receipt: Mapping[str, str] | None,
        stack: ExitStack,
    ) -> None:
        self._folder, self._format = folder, output_format
        self._arguments = (class_names, top_k, provenance, receipt)
        self._stack = stack  # closes the last file
        self._num_parts, self._num_rows = 0, _PART_ROWS

    def write(self, rows: Sequence[ImageResult]) -> None:
        """Write `rows` below the previous ones."""
        if self._num_rows >= _PART_ROWS:
            self._stack.close()
            file = self._folder / f"part-{self._num_parts:05}.{self._format}"
            self._writer = self._stack.enter_context(open_results(Destination(file, self._format), *self._arguments))
            self._num_parts, self._num_rows = self._num_parts + 1, 0
        self._writer.write(rows)
        self._num_rows += len(rows)
