"""Results as a table, CSV, JSON Lines or Parquet, one row per image.

Columns: path, class_name, class_id, probability, label, error. With `top_k` above 1, the other classes are the
columns class_name_2, class_id_2, probability_2, ... of CSV; JSON Lines and Parquet list all of them under `top`.

File names are bytes, text columns are UTF-8: bytes of a name that are not UTF-8 are written as \\xNN. Spreadsheets run
cells that begin with = + - @ as formulas: in CSV such a path is written ./=name, which is the same file, and such a
class name '=name.
"""

import io
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any, BinaryIO, Protocol, TextIO

from cifar10.inference.destination import Destination, open_destination
from cifar10.inference.prediction import ImageResult

_ROW_GROUP = 16_384  # rows that Parquet holds in memory before it writes them
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


class Writer(Protocol):
    """Writes rows in one format."""

    def write(self, rows: Sequence[ImageResult]) -> None:
        """Write `rows` below those before."""
        ...

    def close(self) -> None:
        """Write what is still held back; the stream stays open."""
        ...


@contextmanager
def open_results(
    destination: Destination, class_names: Sequence[str], top_k: int, provenance: Mapping[str, str]
) -> Iterator[Writer]:
    """Give a Writer for `destination`; a file appears at the end of the block, and only if nothing was raised.

    Args:
        destination: Where to and in which format.
        class_names: All that may occur, for the width of a table's columns.
        top_k: Classes in a row without an error.
        provenance: What the predictions depend on; kept in the metadata of Parquet.
    """
    if destination.path is None:
        with closing(_text_writer(destination.format, sys.stdout, class_names, top_k)) as writer:
            yield writer
        return
    with open_destination(destination) as file:
        if destination.format == "parquet":
            with closing(ParquetWriter(file, provenance)) as writer:
                yield writer
            return
        text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
        with closing(_text_writer(destination.format, text, class_names, top_k)) as writer:
            yield writer
        text.detach()  # the file belongs to open_destination, which closes it


def _text_writer(name: str, stream: TextIO, class_names: Sequence[str], top_k: int) -> Writer:
    if name == "csv":
        return CsvWriter(stream, top_k)
    return JsonLinesWriter(stream) if name == "jsonl" else TableWriter(stream, class_names, top_k)


class TableWriter:
    """For a terminal. The path is the last column, so that the columns stay aligned while rows stream in."""

    def __init__(self, stream: TextIO, class_names: Sequence[str], top_k: int) -> None:
        self._stream = stream
        self._top_k = top_k
        self._width = max(len("class"), *(len(visible(name)) for name in class_names))
        header = "  ".join(f"{'class':{self._width}}  {'prob.':>6}" for _ in range(top_k))
        print(f"{header}  path", file=stream)

    def write(self, rows: Sequence[ImageResult]) -> None:
        self._stream.writelines(f"{self._line(row)}\n" for row in rows)
        self._stream.flush()

    def close(self) -> None:
        """Nothing is held back."""

    def _line(self, row: ImageResult) -> str:
        cells = [f"{visible(one.class_name):{self._width}}  {one.probability:6.4f}" for one in row.top]
        cells += [f"{'-':{self._width}}  {'-':>6}"] * (self._top_k - len(cells))
        reason = f"  ({row.error})" if row.error else ""
        return "  ".join([*cells, visible(row.path)]) + reason


class CsvWriter:
    """RFC 4180 but for the line ends, which are those of Unix; Python's own writer then leaves a lone CR unquoted."""

    def __init__(self, stream: TextIO, top_k: int) -> None:
        self._stream = stream
        self._top_k = top_k
        further = [f"{name}_{n}" for n in range(2, top_k + 1) for name in ("class_name", "class_id", "probability")]
        stream.write(_csv_line(["path", "class_name", "class_id", "probability", "label", "error", *further]))

    def write(self, rows: Sequence[ImageResult]) -> None:
        self._stream.writelines(_csv_line(self._cells(row)) for row in rows)
        self._stream.flush()

    def close(self) -> None:
        """Nothing is held back."""

    def _cells(self, row: ImageResult) -> list[str]:
        path = _unicode(row.path)
        classes = [[_inert(one.class_name), str(one.class_id), f"{one.probability:.6f}"] for one in row.top]
        classes += [["", "", ""]] * (self._top_k - len(classes))
        first, *others = classes
        label = _inert(row.label or "")
        further = [cell for one in others for cell in one]
        return [f"./{path}" if path.startswith(_FORMULA) else path, *first, label, row.error or "", *further]


class JsonLinesWriter:
    """One object a line; what does not apply is null."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, rows: Sequence[ImageResult]) -> None:
        self._stream.writelines(json.dumps(_record(row, digits=6), ensure_ascii=False) + "\n" for row in rows)
        self._stream.flush()

    def close(self) -> None:
        """Nothing is held back."""


class ParquetWriter:
    """Written a row group at a time; the provenance is in the schema's metadata."""

    def __init__(self, file: BinaryIO, provenance: Mapping[str, str]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        one_class = [("class_name", pa.string()), ("class_id", pa.int32()), ("probability", pa.float32())]
        fields = [("path", pa.string()), *one_class, ("label", pa.string()), ("error", pa.string())]
        metadata = {f"cifar10.{key}": _unicode(value) for key, value in provenance.items()}
        self._schema = pa.schema([*fields, ("top", pa.list_(pa.struct(one_class)))], metadata=metadata)
        self._table = pa.Table
        self._writer = pq.ParquetWriter(file, self._schema, compression="zstd")
        self._held: list[dict[str, Any]] = []

    def write(self, rows: Sequence[ImageResult]) -> None:
        self._held += [_record(row) for row in rows]
        if len(self._held) >= _ROW_GROUP:
            self._write_group()

    def close(self) -> None:
        self._write_group()
        self._writer.close()

    def _write_group(self) -> None:
        if self._held:
            self._writer.write_table(self._table.from_pylist(self._held, schema=self._schema))
            self._held = []


def _csv_line(cells: Sequence[str]) -> str:
    quoted = ('"' + cell.replace('"', '""') + '"' if any(c in cell for c in ',"\r\n') else cell for cell in cells)
    return ",".join(quoted) + "\n"


def _record(row: ImageResult, digits: int = 9) -> dict[str, Any]:
    """Return `row` as plain values; nine digits hold any float32 exactly."""
    top = [
        {"class_name": g.class_name, "class_id": g.class_id, "probability": float(f"{g.probability:.{digits}g}")}
        for g in row.top
    ]
    first = top[0] if top else {"class_name": None, "class_id": None, "probability": None}
    return {"path": _unicode(row.path), **first, "label": row.label, "error": row.error, "top": top}


def _unicode(name: str) -> str:
    """Return a file name as text that can be encoded: bytes that are no UTF-8 become \\xNN."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def visible(name: str) -> str:
    """Return a name on one line and without anything that a terminal would obey."""
    text = _unicode(name)
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _inert(text: str) -> str:
    """Return text that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(_FORMULA) else text
