"""Entry point of `infer`: image files -> predictions -> rows, and their accuracy where labels are known.

Everything is streamed: two batches of images are in memory at a time, one being computed and one being decoded.
"""

import contextlib
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from tqdm import tqdm

from cifar10.analysis.classification_report import Score
from cifar10.config.schema import Component
from cifar10.data.class_names import printable
from cifar10.errors import UsageError
from cifar10.images.decode import silence_pillow
from cifar10.images.search import describe_skipped
from cifar10.images.sources import is_address
from cifar10.inference.journal import open_journal
from cifar10.inference.prediction import ImageResult
from cifar10.inference.predictor import Predictor
from cifar10.inference.receipts import shared_columns
from cifar10.inference.request import InferenceRequest
from cifar10.inference.results import open_results
from cifar10.system.memory import share_memory_between_threads
from cifar10.system.shortage import told_if_short
from cifar10.system.signals import if_stopped, listening
from cifar10.wording import counted

_MOST_NAMED = 4
"""Folders and classes that a warning names."""


@dataclass(frozen=True)
class Summary:
    """Counts and accuracy of a call of `infer`."""

    num_images: int
    """Rows written: files found, whether they could be read or not."""
    num_failed: int
    """Files that could not be read."""
    accuracy: float | None
    """Over the images whose folder is named for a class, between 0 and 1; None if there are none."""


def infer(request: InferenceRequest) -> Summary:
    """Write one row for each image, and a summary to stderr.

    Raises:
        UsageError: A setting is not possible for this checkpoint.
        UserError: There is no such checkpoint or device, or the output cannot be written.
    """
    silence_pillow()
    share_memory_between_threads()
    predictor = load_predictor(request)
    if request.top_k > predictor.num_classes:
        network = predictor.origin.get("checkpoint", "the network")
        raise UsageError(f"top_k={request.top_k} is more than the {predictor.num_classes} classes of {network}")
    destination, kept = request.destination, "the rows above are complete"
    if destination.path and not destination.is_stream:
        kept = f"{destination.path} was not written; its rows are kept, and the same command with --resume continues"
    with (
        listening(),
        if_stopped(f"while images were classified; {kept}"),
        told_if_short(f"compute fewer images at once: --batch_size below {predictor.batch_size}"),
    ):
        return _infer(request, predictor)


def load_predictor(request: InferenceRequest) -> Predictor:
    """Return the predictor that `request` names; errors as in `infer`."""
    if isinstance(request.checkpoint, Component):
        predictor = Predictor.from_pretrained(request.checkpoint, request.device, request.batch_size, request.tta)
    else:
        predictor = Predictor.from_checkpoint(
            request.checkpoint,
            device=request.device,
            batch_size=request.batch_size,
            tta=request.tta,
            engine=request.engine,
            full_jpeg=request.full_jpeg,
        )
    if request.grouping is None:
        return predictor
    return replace(predictor, groups=request.grouping.bind(predictor.class_names))


def _infer(request: InferenceRequest, predictor: Predictor) -> Summary:
    started = time.monotonic()
    _say(_provenance_line(predictor.provenance))
    tally = _Tally(predictor.class_names)
    with _progress_bar(request) as bar, _open_rows(request, predictor) as (kept, write):
        for rows in kept:
            tally.add(rows)
            bar.update(len(rows))
        if num_kept := tally.num_images:
            _say(f"{counted(num_kept, 'image')} of the interrupted run are kept")
        for rows in predictor.predict_source(request.images, request.top_k, request.receipts):
            write(rows)
            tally.add(rows)
            bar.update(len(rows))
    if tally.score.total:
        _say(tally.score.report())
    if len(tally.folders) > 1 and not tally.num_labelled and predictor.groups is None:
        _say(
            f"warning: none of the sub-folders ({_first(list(tally.folders))}) is a class of this checkpoint "
            f"({_first(predictor.class_names)}); was another checkpoint meant?"
        )
    if predictor.groups is not None:
        _say(predictor.groups.totals_line(tally.groups))
    rate = (tally.num_images - num_kept) / max(time.monotonic() - started, 1e-9)
    _say(_summary_line(tally, request, rate))
    return Summary(tally.num_images, tally.num_failed, tally.score.accuracy)


class _Tally:
    """Counts rows, and scores those whose folder is a class."""

    def __init__(self, class_names: Sequence[str]) -> None:
        self.score = Score(class_names)
        self.num_images = self.num_failed = self.num_labelled = 0
        self.folders: dict[str, None] = {}  # an ordered set, of as many as a warning can name and one more
        self.groups: Counter[str] = Counter()
        self._ids = {name: class_id for class_id, name in enumerate(class_names)}

    def add(self, rows: Sequence[ImageResult]) -> None:
        for row in rows:
            if row.label is not None and row.top:
                self.score.add(self._ids[row.label], row.class_id)
            if row.group is not None:
                self.groups[row.group.name] += 1
            folder = os.path.basename(os.path.dirname(row.path)) if len(self.folders) <= _MOST_NAMED else ""
            if folder and not is_address(row.path):
                self.folders[folder] = None
        self.num_images += len(rows)
        self.num_failed += sum(row.error is not None for row in rows)
        self.num_labelled += sum(row.label is not None for row in rows)


Rows = Sequence[ImageResult]


@contextmanager
def _open_rows(
    request: InferenceRequest, predictor: Predictor
) -> Iterator[tuple[Iterator[Rows], Callable[[Rows], None]]]:
    """Yield the rows that an interrupted run has kept, and the function that writes further ones.

    A result file is made from its journal at the end of the block.
    """
    destination, class_names = request.destination, predictor.class_names
    receipt = shared_columns(predictor.provenance, request.images) if request.receipts else None
    groups = predictor.groups.names if predictor.groups else ()
    results = partial(open_results, destination, class_names, request.top_k, predictor.provenance, receipt, groups)
    if destination.path is None or destination.is_stream:
        with results() as writer:
            yield iter(()), writer.write
        return
    with open_journal(destination.path, class_names, _fingerprint(request, predictor), request.resume) as journal:
        yield journal.resumed(request.images), journal.write
        with results() as writer:
            for rows in journal.rows():
                writer.write(rows)
        journal.remove()


def _fingerprint(request: InferenceRequest, predictor: Predictor) -> dict[str, str]:
    """Return what the rows depend on; the size of batches and the place of the checkpoint do not count."""
    given = request.images.given
    place = os.path.abspath(given) if os.path.lexists(given) else given
    settings = {key: value for key, value in predictor.provenance.items() if key not in ("checkpoint", "batch_size")}
    options = {"receipts": "true"} if request.receipts else {}
    if predictor.groups is not None:
        options["grouping"] = repr(predictor.groups)
    return {"test_dir": place, "top_k": str(request.top_k), **options, **settings}


def _first(names: Sequence[str]) -> str:
    shown = [printable(name) for name in names[:_MOST_NAMED]]
    return ", ".join([*shown, "..."] if len(names) > _MOST_NAMED else shown)


def _progress_bar(request: InferenceRequest) -> "tqdm[Any]":
    """Return a progress bar; it is shown if stderr is a terminal and the rows are not printed on one.

    Its total appears when another thread has counted the images, which takes a few seconds a million.
    """
    is_shown = sys.stderr.isatty() and not request.destination.is_terminal()
    bar: tqdm[Any] = tqdm(unit=" images", disable=not is_shown, dynamic_ncols=True, leave=False)

    def count() -> None:
        with contextlib.suppress(Exception):  # then there is no total
            bar.total = request.images.count()

    if is_shown:
        threading.Thread(target=count, name="count", daemon=True).start()
    return bar


def _provenance_line(provenance: Mapping[str, str]) -> str:
    details = [f"weights {provenance.get('weights_digest', '?')[:12]}", f"tta {provenance['tta']}"]
    details += [provenance[key] for key in ("engine", "precision", "device") if key in provenance]
    return f"{provenance.get('checkpoint', 'network')}: {', '.join(details)}"


def _summary_line(tally: _Tally, request: InferenceRequest, rate: float) -> str:
    parts, score = [counted(tally.num_images, "image"), f"{tally.num_failed:,} could not be read"], tally.score
    if score.accuracy is not None:
        parts.append(f"accuracy {score.accuracy:.2%} ({score.correct:,} of {score.total:,} whose folder is a class)")
    parts.append(f"{rate:,.0f} images/s")
    if request.images.skipped:
        parts.append(describe_skipped(request.images.skipped))
    destination = request.destination
    where = f"; written to {destination.path}" if destination.path and not destination.is_stream else ""
    return ", ".join(parts) + where


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
