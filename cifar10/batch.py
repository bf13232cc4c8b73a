"""Entry point of `batch`: images of a folder or of Parquet files -> predictions -> rows, computed by Ray Data.

Ray's worker processes, on this machine or on those of a cluster, load the model once each. This process only lists the
images and writes the rows, in the order and in the formats of `infer`.
"""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from cifar10.analysis.classification_report import Score
from cifar10.errors import CheckpointError, UsageError
from cifar10.images.named_image import ImageSource
from cifar10.images.parquet_images import ParquetImages
from cifar10.images.search import describe_skipped
from cifar10.inference.destination import NO_RECEIPTS, Destination
from cifar10.inference.engines import exported_files, require_engine
from cifar10.inference.prediction import ImageResult
from cifar10.inference.ray_session import Images, NamedFiles, ParquetFiles, ray_session
from cifar10.inference.ray_worker import NAME, ImageClassifier, ModelFacts, Work, facts_of, results_of
from cifar10.inference.receipts import shared_columns
from cifar10.inference.result_parts import PartFolder, PartWriter, open_parts
from cifar10.inference.results import ParquetWriter, TextWriter, open_results
from cifar10.runs.checkpoint_names import resolve_checkpoint
from cifar10.system.signals import if_stopped
from cifar10.wording import counted

if TYPE_CHECKING:
    import pyarrow as pa

_BATCH_IMAGES = 256
"""Images that a worker gets at a time."""
_BLOCK_IMAGES = 1024
"""Images in a block of Ray's data set; a block is computed by one worker."""
_MOST_BLOCKS = 1000
"""Into which Parquet files are divided."""


@dataclass(frozen=True)
class BatchRequest:
    """Which images to classify, with which network, on which machines, and where results go.

    Raises:
        UsageError: `engine` or `receipts` is not possible.
    """

    images: ImageSource | ParquetImages
    checkpoint: Path | str
    """A file, or a name that only MLflow knows; see `resolve_checkpoint`."""
    destination: Destination | PartFolder
    address: str | None = None
    """Of a Ray cluster; None: this machine."""
    workers: int | None = None
    """Processes that compute; None: one for each machine."""
    device: str = "auto"
    top_k: int = 1
    batch_size: int | None = None
    tta: str | None = None
    engine: str | None = None
    receipts: bool = False
    """Whether rows carry what `verify` needs: see `receipts.py`."""

    def __post_init__(self) -> None:
        if self.engine is not None:
            require_engine(self.engine)
        if self.receipts and isinstance(self.images, ParquetImages):
            raise UsageError("--receipts: verify reads image files, not images in Parquet files")
        if self.receipts and self.destination.format == "table":
            raise UsageError(NO_RECEIPTS)


def batch(request: BatchRequest) -> int:
    """Write one row for each image, and a summary to stderr; return the number of images that could not be read.

    Raises:
        UsageError: A setting is not possible for this checkpoint.
        UserError: There is no such checkpoint or device, the output cannot be written, or Ray fails.
    """
    checkpoint = request.checkpoint if isinstance(request.checkpoint, Path) else resolve_checkpoint(request.checkpoint)
    files = _files_of(checkpoint, request.engine)
    kept = f"while images were classified; {request.destination.path} was not written"
    with if_stopped(kept), ray_session(request.address, request.workers, request.device) as session:
        work = Work(
            checkpoint=str(checkpoint),
            files=files,
            root=os.path.abspath(request.images.root),
            top_k=request.top_k,
            num_cpus=session.num_cpus,
            device=request.device,
            batch_size=request.batch_size,
            tta=request.tta,
            engine=request.engine,
            receipts=request.receipts,
        )
        return _write(session.map(_images(request.images), ImageClassifier, work, _BATCH_IMAGES), request)


def _files_of(checkpoint: Path, engine: str | None) -> dict[str, bytes]:
    """Return the files that a worker needs, the checkpoint first, by their paths relative to its folder."""
    files = [checkpoint]
    if engine is not None:
        files += exported_files(checkpoint)
    try:
        return {file.relative_to(checkpoint.parent).as_posix(): file.read_bytes() for file in files}
    except OSError as error:
        raise CheckpointError(f"{error.filename} cannot be read: {error.strerror}") from None


def _images(images: ImageSource | ParquetImages) -> Images:
    """Return the names of the images in a folder, or the columns of Parquet files."""
    import pyarrow as pa

    if isinstance(images, ParquetImages):
        num_blocks = max(len(images.files), -(-images.num_rows // _BLOCK_IMAGES))
        files = [os.path.abspath(file) for file in images.files]
        return ParquetFiles(files, list(images.columns), min(num_blocks, _MOST_BLOCKS))
    names = (os.fsencode(image.name) for image in images)
    blocks = []
    while block := list(islice(names, _BLOCK_IMAGES)):
        blocks.append(pa.table({NAME: pa.array(block, pa.binary())}))
    return NamedFiles(blocks)


def _write(tables: "Iterator[pa.Table]", request: BatchRequest) -> int:
    started, num_images, num_failed = time.monotonic(), 0, 0
    first = next(tables)
    facts = facts_of(first)
    score, ids = Score(facts.class_names), {name: class_id for class_id, name in enumerate(facts.class_names)}
    with (
        tqdm(unit=" images", disable=not sys.stderr.isatty(), total=_total(request.images), leave=False) as bar,
        _writer(request, facts) as writer,
    ):
        for rows in _rows(first, tables, facts):
            writer.write(rows)
            for row in rows:
                if row.label is not None and row.top:
                    score.add(ids[row.label], row.class_id)
            num_images += len(rows)
            num_failed += sum(row.error is not None for row in rows)
            bar.update(len(rows))
    if score.total:
        _say(score.report())
    took = f"{time.monotonic() - started:,.0f} s"
    parts = [counted(num_images, "image"), f"{num_failed:,} could not be read", took]
    if isinstance(request.images, ImageSource) and request.images.skipped:
        parts.append(describe_skipped(request.images.skipped))
    _say(f"{', '.join(parts)}; written to {request.destination.path}")
    return num_failed


def _rows(first: "pa.Table", others: "Iterator[pa.Table]", facts: ModelFacts) -> Iterator[list[ImageResult]]:
    """Yield the results of each table; an image without a path is called by its number, from 0."""
    number = 0
    for table in (table for tables in ([first], others) for table in tables):
        facts_of(table)  # a worker on another machine may have failed
        rows = results_of(table, facts)
        yield [row if row.path else replace(row, path=str(number + place)) for place, row in enumerate(rows)]
        number += len(rows)


def _writer(
    request: BatchRequest, facts: ModelFacts
) -> "AbstractContextManager[TextWriter | ParquetWriter | PartWriter]":
    receipt = None
    if request.receipts and isinstance(request.images, ImageSource):
        receipt = shared_columns(facts.provenance, request.images)
    if isinstance(request.destination, PartFolder):
        return open_parts(request.destination, facts.class_names, request.top_k, facts.provenance, receipt)
    return open_results(request.destination, facts.class_names, request.top_k, facts.provenance, receipt)


def _total(images: ImageSource | ParquetImages) -> int | None:
    return images.num_rows if isinstance(images, ParquetImages) else None


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
