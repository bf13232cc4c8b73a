"""Results as a table, CSV, JSON Lines or Parquet, one row per image.

Columns: path, class_name, class_id, probability, label, error. With `top_k` above 1, the other classes are the
columns class_name_2, class_id_2, probability_2, ... of CSV; JSON Lines and Parquet list all of them under `top`.
With receipts, the columns of `receipts.py` follow.

File names are bytes, text columns are UTF-8: bytes of a name that are not UTF-8 are written as \\xNN. Spreadsheets run
cells that begin with = + - @ as formulas: in CSV such a path is written ./=name, which is the same file, and such a
class name '=name.
"""

import io
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any, BinaryIO, TextIO

from cifar10.data.class_names import printable
from cifar10.inference.destination import Destination, open_destination
from cifar10.inference.grouping import UNSURE
from cifar10.inference.prediction import ImageResult
from cifar10.inference.receipts import RECEIPT_COLUMNS, complete

_ROW_GROUP = 16_384  # rows that Parquet holds in memory before it writes them
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_CLASS_COLUMNS = ("class_name", "class_id", "probability")
_GROUP = "group"


@contextmanager
def open_results(
    destination: Destination,
    class_names: Sequence[str],
    top_k: int,
    provenance: Mapping[str, str],
    receipt: Mapping[str, str] | None = None,
    groups: Sequence[str] = (),
) -> Iterator["TextWriter | ParquetWriter"]:
    """Yield a writer for `destination`. A file appears at the end of the block, unless an exception was raised.

    Args:
        destination: Path and format.
        class_names: All that may occur, for the width of a table's columns.
        top_k: Classes in a row without an error.
        provenance: What the predictions depend on, for the metadata of Parquet.
        receipt: The columns of a receipt that all rows share; None: rows without receipts. Not for a table.
        groups: Names of the groups of classes, each of which is a column.
    """
    if destination.path is None:
        yield _text_writer(destination.format, sys.stdout, class_names, top_k, receipt, groups)
        return
    with open_destination(destination) as file:
        if destination.format == "parquet":
            with closing(ParquetWriter(file, provenance, receipt, groups)) as writer:
                yield writer
            return
        text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
        yield _text_writer(destination.format, text, class_names, top_k, receipt, groups)
        text.detach()  # the file belongs to open_destination, which closes it


def csv_text(
    rows: Sequence[ImageResult],
    top_k: int,
    receipt: Mapping[str, str] | None = None,
    groups: Sequence[str] = (),
) -> str:
    """Return `rows` as the text of a CSV file; arguments as for `open_results`."""
    text = io.StringIO()
    _text_writer("csv", text, (), top_k, receipt, groups).write(rows)
    return text.getvalue()


class TextWriter:
    """Writes one line for each row, without delay.

    Args:
        stream: Stays open.
        line: Returns the line of a row.
        header: First line, if there is one.
    """

    def __init__(self, stream: TextIO, line: Callable[[ImageResult], str], header: str | None = None) -> None:
        self._stream = stream
        self._line = line
        if header is not None:
            stream.write(f"{header}\n")

    def write(self, rows: Sequence[ImageResult]) -> None:
        """Write `rows` below the previous ones."""
        self._stream.writelines(f"{self._line(row)}\n" for row in rows)
        self._stream.flush()


class ParquetWriter:
    """Writes one row group at a time; the provenance is in the schema's metadata. The stream stays open."""

    def __init__(
        self,
        file: BinaryIO,
        provenance: Mapping[str, str],
        receipt: Mapping[str, str] | None = None,
        groups: Sequence[str] = (),
    ) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        one_class = list(zip(_CLASS_COLUMNS, (pa.string(), pa.int32(), pa.float32()), strict=True))
        fields = [("path", pa.string()), *one_class, ("label", pa.string()), ("error", pa.string())]
        fields += [(_GROUP, pa.string()), *((column, pa.float32()) for column in _columns(groups))] if groups else []
        metadata = {f"cifar10.{key}": _unicode(value) for key, value in provenance.items()}
        further = [] if receipt is None else [(name, pa.string()) for name in RECEIPT_COLUMNS]
        self._schema = pa.schema([*fields, ("top", pa.list_(pa.struct(one_class))), *further], metadata=metadata)
        self._receipt = receipt
        self._table = pa.Table
        self._writer = pq.ParquetWriter(file, self._schema, compression="zstd")
        self._groups = groups
        self._held: list[dict[str, Any]] = []

    def write(self, rows: Sequence[ImageResult]) -> None:
        """Write `rows` below the previous ones, when there are enough for a row group."""
        self._held += [record_of(row, 9, self._receipt, self._groups) | _flat_group(row) for row in rows]
        if len(self._held) >= _ROW_GROUP:
            self._write_group()

    def close(self) -> None:
        """Write the remaining rows and the footer."""
        self._write_group()
        self._writer.close()

    def _write_group(self) -> None:
        if self._held:
            self._writer.write_table(self._table.from_pylist(self._held, schema=self._schema))
            self._held = []


def _text_writer(
    format_name: str,
    stream: TextIO,
    class_names: Sequence[str],
    top_k: int,
    receipt: Mapping[str, str] | None,
    groups: Sequence[str],
) -> TextWriter:
    if format_name == "jsonl":  # null where a column does not apply
        return TextWriter(stream, lambda row: json.dumps(record_of(row, 6, receipt, groups), ensure_ascii=False))
    if format_name == "csv":
        further = [f"{name}_{n}" for n in range(2, top_k + 1) for name in _CLASS_COLUMNS]
        further += [] if receipt is None else RECEIPT_COLUMNS
        further += [_GROUP, *_columns(groups)] if groups else []
        header = ",".join(["path", *_CLASS_COLUMNS, "label", "error", *map(_csv_cell, further)])
        return TextWriter(stream, lambda row: _csv_line(row, top_k, receipt, groups), header)
    width = max(len("class"), *(len(printable(name)) for name in class_names))
    titles = [f"{_GROUP:{_group_width(groups)}}", *(f"{name:>6}" for name in groups)] if groups else []
    header = "  ".join([*titles, *[f"{'class':{width}}   prob."] * top_k, "path"])
    return TextWriter(stream, lambda row: _table_line(row, top_k, width, groups), header)


def _table_line(row: ImageResult, top_k: int, width: int, groups: Sequence[str]) -> str:
    """Return a line with the path as the last column, so that the columns stay aligned while rows stream in."""
    cells = [f"{row.group.name if row.group else '-':{_group_width(groups)}}"] if groups else []
    found = row.group.probabilities if row.group else {}
    cells += [f"{f'{found[name]:.4f}' if found else '-':>{max(6, len(name))}}" for name in groups]
    cells += [f"{printable(one.class_name):{width}}  {one.probability:6.4f}" for one in row.top]
    cells += [f"{'-':{width}}  {'-':>6}"] * (top_k - len(row.top))
    reason = f"  ({row.error})" if row.error else ""
    return "  ".join([*cells, printable(row.path)]) + reason


def _csv_line(row: ImageResult, top_k: int, receipt: Mapping[str, str] | None, groups: Sequence[str]) -> str:
    """Return a line of RFC 4180, without its end. With lines that end in LF, `csv.writer` leaves a lone CR unquoted."""
    path = _unicode(row.path)
    classes = [[inert(one.class_name), str(one.class_id), f"{one.probability:.6f}"] for one in row.top]
    first, *others = classes + [["", "", ""]] * (top_k - len(classes))
    cells = [f"./{path}" if path.startswith(_FORMULA) else path, *first, inert(row.label or ""), row.error or ""]
    cells += [cell for one in others for cell in one]
    if receipt is not None:
        cells += [inert(_unicode(cell or "")) for cell in complete(receipt, row).values()]
    if groups:
        found = row.group.probabilities if row.group else {}
        cells += [row.group.name if row.group else "", *(f"{found[name]:.6f}" if found else "" for name in groups)]
    return ",".join(map(_csv_cell, cells))


def _csv_cell(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if any(character in text for character in ',"\r\n') else text


def record_of(
    row: ImageResult, digits: int = 9, receipt: Mapping[str, str] | None = None, groups: Sequence[str] = ()
) -> dict[str, Any]:
    """Return `row` as plain values, with its receipt and groups if there are any; nine digits hold any float32."""
    top = [
        {"class_name": g.class_name, "class_id": g.class_id, "probability": float(f"{g.probability:.{digits}g}")}
        for g in row.top
    ]
    first = top[0] if top else dict.fromkeys(_CLASS_COLUMNS)
    record = {"path": _unicode(row.path), **first, "label": row.label, "error": row.error, "top": top}
    if receipt is not None:
        record |= {name: None if cell is None else _unicode(cell) for name, cell in complete(receipt, row).items()}
    if groups:
        found = row.group.probabilities if row.group else None
        rounded = found and {name: float(f"{value:.{digits}g}") for name, value in found.items()}
        record |= {_GROUP: row.group.name if row.group else None, "groups": rounded}
    return record


def _flat_group(row: ImageResult) -> dict[str, Any]:
    """Return the columns of the groups; none where there are none."""
    if row.group is None:
        return {}
    return dict(zip(_columns(list(row.group.probabilities)), row.group.probabilities.values(), strict=True))


def _columns(groups: Sequence[str]) -> list[str]:
    return [f"{_GROUP}_{name}" for name in groups]


def _group_width(groups: Sequence[str]) -> int:
    return max(len(name) for name in (*groups, UNSURE))


def _unicode(name: str) -> str:
    """Return a file name as text that can be encoded: bytes that are not UTF-8 become \\xNN."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def inert(text: str) -> str:
    """Return text that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(_FORMULA) else text
