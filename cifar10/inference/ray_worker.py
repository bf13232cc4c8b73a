"""The part of `batch` that runs in the worker processes of Ray: a batch of images -> a batch of results.

Importing this imports neither Ray nor torch. Batches are tables of Arrow, in which file names are bytes.
"""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from cifar10.errors import UsageError, UserError
from cifar10.images.decode import silence_pillow
from cifar10.images.named_image import NamedImage, image_file, unreadable
from cifar10.inference.prediction import ImageResult, Prediction
from cifar10.inference.predictor import Predictor
from cifar10.system.limits import CPUS

NAME, DATA = "path", "bytes"
"""Columns of a batch of images: the path relative to `Work.root`, and the encoded image; one of them may be missing."""

_SCHEMA = pa.schema(
    {
        "name": pa.binary(),
        "class_ids": pa.list_(pa.int32()),
        "probabilities": pa.list_(pa.float32()),
        "label": pa.string(),
        "error": pa.string(),
        "sha256": pa.string(),
        "model": pa.string(),  # in the first row: JSON, of ModelFacts or why nothing can be computed
    }
)


@dataclass(frozen=True)
class Work:
    """What a worker needs: the model and its settings. It may run on a machine that has no files of this one."""

    checkpoint: str
    """Path on the machine of the driver, for provenance."""
    files: Mapping[str, bytes]
    """Path relative to the checkpoint's folder -> content; the checkpoint is the first."""
    root: str
    """Folder of images that are given by their path; must be there on each machine."""
    top_k: int
    num_cpus: int
    device: str = "auto"
    batch_size: int | None = None
    tta: str | None = None
    engine: str | None = None
    receipts: bool = False


@dataclass(frozen=True)
class ModelFacts:
    """What the driver needs to know of the model that workers have loaded."""

    class_names: tuple[str, ...]
    provenance: Mapping[str, str]


class ImageClassifier:
    """Loads the model once, and classifies batches. A user error is returned, not raised, as Ray would wrap it."""

    def __init__(self, work: Work) -> None:
        os.environ[CPUS] = str(work.num_cpus)
        silence_pillow()
        self.work = work
        self.failure: UserError | None = None
        try:
            self.predictor = _loaded(work)
        except UserError as error:
            self.failure = error

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Return one row for each image of `batch`, in order."""
        if self.failure is not None:
            failure = {"failure": str(self.failure), "is_usage": isinstance(self.failure, UsageError)}
            return pa.Table.from_pylist([{"model": json.dumps(failure)}], schema=_SCHEMA)
        rows = [_row(result) for results in self._results(batch) for result in results]
        if rows:
            facts = {"class_names": self.predictor.class_names, "provenance": self.predictor.provenance}
            rows[0]["model"] = json.dumps(facts)
        return pa.Table.from_pylist(rows, schema=_SCHEMA)

    def _results(self, batch: pa.Table) -> Iterator[list[ImageResult]]:
        nothing = [None] * batch.num_rows
        names = batch[NAME].to_pylist() if NAME in batch.column_names else nothing
        data = batch[DATA].to_pylist() if DATA in batch.column_names else nothing
        images = (self._image(os.fsdecode(name or b""), encoded) for name, encoded in zip(names, data, strict=True))
        return self.predictor.predict_source(images, self.work.top_k, self.work.receipts)

    def _image(self, name: str, encoded: bytes | None) -> NamedImage:
        if encoded is not None:
            return NamedImage(name, lambda before_reading: encoded)
        return image_file(Path(self.work.root, name), name) if name else unreadable(name, "neither path nor bytes")


def results_of(table: pa.Table, facts: ModelFacts) -> list[ImageResult]:
    """Return the results in a table of `ImageClassifier`."""
    return [
        ImageResult(
            path=os.fsdecode(row["name"]),
            top=tuple(
                Prediction(facts.class_names[class_id], class_id, probability)
                for class_id, probability in zip(row["class_ids"], row["probabilities"], strict=True)
            ),
            label=row["label"],
            error=row["error"],
            sha256=row["sha256"],
            provenance=facts.provenance,
        )
        for row in table.to_pylist()
    ]


def facts_of(table: pa.Table) -> ModelFacts:
    """Return the facts in a table of `ImageClassifier`.

    Raises:
        UserError: The model cannot be used on the machine of the worker, or with these settings.
    """
    found = [json.loads(text) for text in table["model"].drop_null().to_pylist()]
    for entry in found:
        if "failure" in entry:
            raise (UsageError if entry["is_usage"] else UserError)(entry["failure"])
    return ModelFacts(tuple(found[0]["class_names"]), found[0]["provenance"])


def _loaded(work: Work) -> Predictor:
    with tempfile.TemporaryDirectory(prefix="cifar10-") as scratch:
        for name, content in work.files.items():
            file = Path(scratch, name)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        checkpoint = Path(scratch, next(iter(work.files)))
        predictor = Predictor.from_checkpoint(checkpoint, work.device, work.batch_size, work.tta, engine=work.engine)
    if work.top_k > predictor.num_classes:
        raise UsageError(f"top_k={work.top_k} is more than the {predictor.num_classes} classes of {work.checkpoint}")
    return replace(predictor, origin={**predictor.origin, "checkpoint": work.checkpoint})


def _row(result: ImageResult) -> dict[str, Any]:
    return {
        "name": os.fsencode(result.path),
        "class_ids": [one.class_id for one in result.top],
        "probabilities": [one.probability for one in result.top],
        "label": result.label,
        "error": result.error,
        "sha256": result.sha256,
    }
