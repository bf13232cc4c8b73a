"""Parquet files with images: a column `bytes` with encoded images, a column `path`, or both."""

import os
from dataclasses import dataclass
from pathlib import Path

from cifar10.errors import UserError, first_line

_COLUMNS = ("path", "bytes")


@dataclass(frozen=True)
class ParquetImages:
    """Parquet files of one schema, in order."""

    files: tuple[Path, ...]
    columns: tuple[str, ...]
    """Those of `path` and `bytes` that are there."""
    num_rows: int

    @property
    def root(self) -> Path:
        """The folder that paths are relative to, where there are no bytes."""
        return self.files[0].parent


def find_parquet(given: str) -> ParquetImages | None:
    """Return the Parquet file, or the files directly in a folder, that `given` names; None if it names neither.

    Raises:
        UserError: A file is damaged, or has no usable column `path` or `bytes`.
    """
    path = Path(given)
    if os.path.isdir(path):  # which is false, as the next, for an impossible name
        files = sorted(file for file in path.glob("*.parquet") if file.is_file() and not file.name.startswith("."))
    else:
        files = [path] if path.suffix == ".parquet" and os.path.isfile(path) else []
    if not files:
        return None
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: set[tuple[str, ...]] = set()
    num_rows = 0
    for file in files:
        try:
            with pq.ParquetFile(file) as opened:
                schema, num_rows = opened.schema_arrow, num_rows + opened.metadata.num_rows
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{file} is not a Parquet file: {first_line(error)[:200]}") from None
        found = {name: schema.field(name).type for name in _COLUMNS if name in schema.names}
        if not found:
            raise UserError(f"{file} has no column path or bytes, but {', '.join(schema.names)[:200]}")
        if "bytes" in found and not (pa.types.is_binary(found["bytes"]) or pa.types.is_large_binary(found["bytes"])):
            raise UserError(f"{file}: its column bytes is {found['bytes']}; it must be binary: encoded images")
        if "path" in found and not (pa.types.is_string(found["path"]) or pa.types.is_large_string(found["path"])):
            raise UserError(f"{file}: its column path is {found['path']}; it must be string")
        columns.add(tuple(found))
    if len(columns) > 1:
        raise UserError(f"{path}: some of its files lack a column path or bytes that others have")
    return ParquetImages(tuple(files), columns.pop(), num_rows)
