"""Read a random sample of the rows, with their receipts, from a file that `infer --receipts` has written.

The file may be damaged or come from a stranger: every value that is used is checked, and memory use is bounded.
"""

import codecs
import csv
import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from cifar10.errors import UserError, first_line
from cifar10.inference.prediction import Prediction
from cifar10.inference.receipts import RECEIPT_COLUMNS
from cifar10.wording import counted

_NEEDED = ("path", "class_name", "class_id", "probability", "error", *RECEIPT_COLUMNS)
_FURTHER = re.compile("(class_name|class_id|probability)_([2-9]|[1-9][0-9]{1,3})")
"""Columns of CSV for classes behind the most probable one."""
_LONGEST_LINE = 2**20  # characters
_BATCH_ROWS = 4096
_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class RecordedRow:
    """A row of a result file, with its receipt."""

    path: str
    top: Sequence[Prediction]
    """The classes, the most probable first; empty if the image could not be read."""
    error: str | None
    image_sha256: str | None
    checkpoint: str
    weights_digest: str
    engine: str
    settings: Mapping[str, str]


def sample_rows(file: Path, num_rows: int, seed: int = 0) -> tuple[list[RecordedRow], int]:
    """Return `num_rows` random rows in their order, all if there are fewer, and the number of rows in the file.

    Raises:
        UserError: The file cannot be read, is damaged, or its rows have no receipts.
    """
    generator, total = random.Random(seed), 0
    sample: list[tuple[int, Mapping[str, Any]]] = []
    try:
        for total, values in enumerate(_rows(file), 1):  # reservoir sampling
            position = total - 1 if total <= num_rows else generator.randrange(total)
            if position < num_rows:
                sample[position : position + 1] = [(total, values)]
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror or first_line(error)}") from None
    except UnicodeDecodeError:
        raise UserError(f"{file} is damaged after {counted(total, 'row')}: it is not UTF-8") from None
    except UserError:  # rows without receipts
        raise
    except (ValueError, RecursionError, csv.Error) as error:
        raise UserError(f"{file} is damaged after {counted(total, 'row')}: {first_line(error)[:200]}") from None
    rows = []
    for number, values in sorted(sample, key=lambda item: item[0]):
        try:
            rows.append(_parsed(values))
        except (ValueError, TypeError, RecursionError) as error:
            raise UserError(f"{file}: row {number:,} is damaged: {first_line(error)[:200]}") from None
    return rows, total


def _rows(file: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the needed columns of each row, not checked yet."""
    with file.open("rb") as opened:
        start = opened.read(4)
    if start == b"PAR1":
        return _parquet_rows(file)
    return _json_rows(file) if start.removeprefix(codecs.BOM_UTF8)[:1] == b"{" else _csv_rows(file)


def _csv_rows(file: Path) -> Iterator[Mapping[str, Any]]:
    """Also of a file that a spreadsheet has saved: with a byte order mark, or with semicolons."""
    with file.open(encoding="utf-8-sig", newline="") as opened:
        lines = _lines(opened)
        header = next(lines, "")
        delimiter = next((each for each in ",;\t" if each in header), ",")
        reader = csv.DictReader(chain([header], lines), delimiter=delimiter, strict=True)
        _require_columns(reader.fieldnames or (), file)
        for row in reader:
            if all(name == value for name, value in row.items()):  # the header of a file that was appended
                continue
            if None in row or None in row.values():
                raise ValueError("a row has more or fewer cells than the header; the file may be cut off")
            yield {name: row[name] or None for name in _NEEDED} | {"top": _further(row)}


def _json_rows(file: Path) -> Iterator[Mapping[str, Any]]:
    with file.open(encoding="utf-8-sig", newline="\n") as opened:
        for line in _lines(opened):
            try:
                row = json.loads(line)
            except ValueError:
                raise ValueError("a line is not JSON; the file may be cut off") from None
            if not isinstance(row, dict):
                raise ValueError("a line is not an object of JSON")
            _require_columns(row, file)
            yield {name: row[name] for name in _NEEDED} | {"top": row.get("top")}


def _parquet_rows(file: Path) -> Iterator[Mapping[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(file)
        _require_columns(table.schema_arrow.names, file)
        further = [name for name in ("top",) if name in table.schema_arrow.names]
        for batch in table.iter_batches(_BATCH_ROWS, columns=[*_NEEDED, *further]):
            yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise ValueError(first_line(error)) from None


def _lines(opened: Any) -> Iterator[str]:
    while line := opened.readline(_LONGEST_LINE):
        if len(line) == _LONGEST_LINE:
            raise ValueError("a line has more than a million characters")
        yield line


def _require_columns(names: Any, file: Path) -> None:
    missing = [name for name in _NEEDED if name not in names]
    if missing:
        raise UserError(f"{file} has no {missing[0]} in its rows; receipts are written by infer --receipts")


def _further(row: Mapping[str, str]) -> list[dict[str, str]]:
    """Return the classes of a row of CSV behind the first."""
    classes: dict[int, dict[str, str]] = {}
    for name, cell in row.items():
        if cell and (found := _FURTHER.fullmatch(name)):
            classes.setdefault(int(found[2]), {})[found[1]] = cell
    return [classes[number] for number in sorted(classes)]


def _parsed(values: Mapping[str, Any]) -> RecordedRow:
    digest, error = values["image_sha256"], values["error"]
    texts = {name: values[name] for name in ("path", "checkpoint", "weights_digest", "engine", "settings")}
    for name, text in [*texts.items(), ("error", error or "")]:
        if not isinstance(text, str) or "\0" in text or len(text) > _LONGEST_LINE:
            raise ValueError(f"{name} is not a text")
    if not _SHA256.fullmatch(texts["weights_digest"]) or not (digest is None or _SHA256.fullmatch(digest)):
        raise ValueError("a digest does not have 64 hexadecimal digits")
    top = _classes(values)
    if bool(top) == bool(error):
        raise ValueError("it has a class and an error" if top else "it has neither a class nor an error")
    if top and digest is None:
        raise ValueError("it has a class, and no SHA-256 of its image")
    settings = json.loads(texts.pop("settings"))
    if not isinstance(settings, dict) or not all(isinstance(value, str) for value in settings.values()):
        raise ValueError("settings are not an object of texts")
    return RecordedRow(texts.pop("path"), top, error, digest, settings=settings, **texts)


def _classes(values: Mapping[str, Any]) -> list[Prediction]:
    """Return all classes of a row. JSON Lines and Parquet repeat the first under `top`."""
    first = {name: values[name] for name in ("class_name", "class_id", "probability")}
    further = values["top"] or []
    if not isinstance(further, list) or not all(isinstance(one, dict) for one in further):
        raise ValueError("top is not a list of classes")
    if set(first.values()) == {None}:
        if further:
            raise ValueError("it has further classes without a first")
        return []
    top = [_class(each) for each in (first, *further)]
    return top[1:] if top[:1] == top[1:2] else top


def _class(values: Mapping[str, Any]) -> Prediction:
    name, class_id, probability = (values.get(key) for key in ("class_name", "class_id", "probability"))
    if not isinstance(name, str) or class_id is None or probability is None:
        raise ValueError("it has a class without a name, an id or a probability")
    class_id, probability = int(class_id), float(probability)
    if class_id < 0 or not 0 <= probability <= 1:
        raise ValueError("class_id or probability is out of range")
    return Prediction(name, class_id, probability)
