"""Entry point of `infer`: image files -> predictions -> rows, and their accuracy where labels are known.

Everything is streamed: two batches of images are in memory at a time, one being computed and one being decoded.
"""

import os
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tqdm import tqdm

from cifar10.analysis.classification_report import Score
from cifar10.config.schema import Component
from cifar10.data.class_names import printable
from cifar10.errors import UsageError
from cifar10.images.decode import silence_pillow
from cifar10.images.search import ImageSearch, describe_skipped
from cifar10.inference.predictor import Predictor
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
    path = request.destination.path
    kept = f"; {path} was not written" if path else "; the rows above are complete"
    with (
        listening(),
        if_stopped(f"while images were classified{kept}"),
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
        )
    if request.grouping is None:
        return predictor
    return replace(predictor, groups=request.grouping.bind(predictor.class_names))


def _infer(request: InferenceRequest, predictor: Predictor) -> Summary:
    started, class_names, provenance = time.monotonic(), predictor.class_names, predictor.provenance
    _say(_provenance_line(provenance))
    score, ids = Score(class_names), {name: class_id for class_id, name in enumerate(class_names)}
    num_images = num_failed = num_labelled = 0
    groups = predictor.groups
    totals: Counter[str] = Counter()
    folders: dict[str, None] = {}  # an ordered set, of as many folders as a warning can name and one more
    with (
        _progress_bar(request) as bar,
        open_results(
            request.destination, class_names, request.top_k, provenance, groups.names if groups else ()
        ) as writer,
    ):
        for rows in predictor.predict_files(request.images, request.top_k):
            writer.write(rows)
            for row in rows:
                if row.label is not None and row.top:
                    score.add(ids[row.label], row.class_id)
                if row.group is not None:
                    totals[row.group.name] += 1
                if len(folders) <= _MOST_NAMED and (folder := os.path.basename(os.path.dirname(row.path))):
                    folders[folder] = None
            num_images += len(rows)
            num_failed += sum(row.error is not None for row in rows)
            num_labelled += sum(row.label is not None for row in rows)
            bar.update(len(rows))
    if score.total:
        _say(score.report())
    if folders and not num_labelled and groups is None:
        _say(
            f"warning: none of the sub-folders ({_first(list(folders))}) is a class of this checkpoint "
            f"({_first(class_names)}); was another checkpoint meant?"
        )
    if groups is not None:
        _say(groups.totals_line(totals))
    summary = Summary(num_images, num_failed, score.accuracy)
    _say(_summary_line(summary, score, request, time.monotonic() - started))
    return summary


def _first(names: Sequence[str]) -> str:
    shown = [printable(name) for name in names[:_MOST_NAMED]]
    return ", ".join([*shown, "..."] if len(names) > _MOST_NAMED else shown)


def _progress_bar(request: InferenceRequest) -> "tqdm[Any]":
    """Return a progress bar; it is shown if stderr is a terminal and the rows are not printed on one."""
    is_shown = sys.stderr.isatty() and not request.destination.is_terminal()
    total = sum(1 for _ in ImageSearch(request.images.given)) if is_shown else None  # takes a few seconds a million
    return tqdm(total=total, unit=" images", disable=not is_shown, dynamic_ncols=True, leave=False)


def _provenance_line(provenance: Mapping[str, str]) -> str:
    details = [f"weights {provenance.get('weights_digest', '?')[:12]}", f"tta {provenance['tta']}"]
    details += [provenance[key] for key in ("engine", "precision", "device") if key in provenance]
    return f"{provenance.get('checkpoint', 'network')}: {', '.join(details)}"


def _summary_line(summary: Summary, score: Score, request: InferenceRequest, seconds: float) -> str:
    parts = [counted(summary.num_images, "image"), f"{summary.num_failed:,} could not be read"]
    if summary.accuracy is not None:
        parts.append(f"accuracy {summary.accuracy:.2%} ({score.correct:,} of {score.total:,} whose folder is a class)")
    parts.append(f"{summary.num_images / max(seconds, 1e-9):,.0f} images/s")
    if request.images.skipped:
        parts.append(describe_skipped(request.images.skipped))
    destination = request.destination
    where = f"; written to {destination.path}" if destination.path and not destination.is_stream else ""
    return ", ".join(parts) + where


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
