"""The walk of `infer`: paths -> pixels -> batches -> probabilities -> rows, and a word on how right they are.

Everything streams: two batches of images are in memory at a time, one being asked about and one being decoded.
"""

import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from cifar10.analysis.classification_report import Score
from cifar10.data.class_names import ClassFolders
from cifar10.errors import UsageError, UserError
from cifar10.images.decode import ImageError, silence_pillow
from cifar10.images.parallel import Decoded, decode_files
from cifar10.images.search import describe_skipped, find_images, no_images, search_root
from cifar10.inference.destination import Destination, choose_destination
from cifar10.inference.predictor import Predictor
from cifar10.inference.results import ImageResult, Prediction, open_results, visible
from cifar10.system.memory import share_memory_between_threads
from cifar10.system.shortage import told_if_short
from cifar10.system.signals import if_stopped, listening
from cifar10.wording import counted

_MOST_NAMED = 4
"""Folders and classes that a warning names."""


@dataclass(frozen=True)
class Summary:
    """What came of it."""

    num_images: int
    """Rows written: files found, whether they could be read or not."""
    num_failed: int
    """Those that could not."""
    accuracy: float | None
    """Over the images whose folder says their class, between 0 and 1; None if there is none."""


def infer(
    test_dir: str,
    checkpoint_name: str,
    output: str | None = None,
    output_format: str | None = None,
    top_k: int = 1,
    batch_size: int | None = None,
    tta: str | None = None,
    device: str = "auto",
) -> Summary:
    """Write one row for each image under `test_dir`, and a summary to stderr.

    Args:
        test_dir: Folder, file or glob; see `find_images`.
        checkpoint_name: As for `resolve_checkpoint`.
        output: File to write; None: stdout.
        output_format: table, csv, jsonl or parquet; None: by the suffix of `output`, else table.
        top_k: Classes to name for each image.
        batch_size: Images to compute at once; None: as in the test pass of the checkpoint's training.
        tta: Test-time augmentation; None: as in that pass.
        device: auto, cpu, cuda or cuda:N.

    Raises:
        UsageError: An argument is not possible. Nothing was started.
        UserError: There are no images, no such checkpoint or device, or the output cannot be written.
    """
    silence_pillow()
    share_memory_between_threads()
    if top_k < 1:
        raise UsageError(f"top_k={top_k} is not possible; it must be 1 or more")
    destination = choose_destination(output, output_format)
    skipped: Counter[str] = Counter()
    paths = _at_least_one(find_images(test_dir, skipped), test_dir, skipped)
    predictor = Predictor.from_checkpoint(checkpoint_name, device=device, batch_size=batch_size, tta=tta)
    if top_k > predictor.num_classes:
        raise UsageError(f"top_k={top_k} is more than the {predictor.num_classes} classes of {checkpoint_name}")
    kept = f"; {destination.path} was not written" if destination.path else "; the rows above are whole"
    with (
        listening(),
        if_stopped(f"while images were classified{kept}"),
        told_if_short(f"ask about fewer images at once: --batch_size below {predictor.batch_size}"),
    ):
        return _infer(paths, test_dir, skipped, predictor, destination, top_k)


def _infer(
    paths: Iterator[Path],
    test_dir: str,
    skipped: Counter[str],
    predictor: Predictor,
    destination: Destination,
    top_k: int,
) -> Summary:
    _say(_provenance_line(predictor))
    started = time.monotonic()
    root, folders, score = search_root(test_dir), ClassFolders(predictor.class_names), Score(predictor.class_names)
    num_images = num_failed = num_labelled = 0
    strange: dict[str, None] = {}  # names of folders that are no class, as a set in order
    with (
        _progress(test_dir, destination) as bar,
        open_results(destination, predictor.class_names, top_k, predictor.provenance) as writer,
    ):
        for batch in batches(
            decode_files(paths, predictor.image_size, look_ahead=predictor.batch_size), predictor.batch_size
        ):
            rows = predict_batch(batch, predictor, root, folders, score, top_k)
            writer.write(rows)
            num_images += len(rows)
            num_failed += sum(row.error is not None for row in rows)
            num_labelled += sum(row.label is not None for row in rows)
            _add_folders(strange, rows)
            bar.update(len(rows))
    if score.total:
        _say(score.report())
    if strange and not num_labelled:
        _say(_strange_folders_line(strange, predictor.class_names))
    summary = Summary(num_images, num_failed, score.accuracy)
    _say(_summary_line(summary, score, skipped, time.monotonic() - started, destination))
    return summary


def batches(items: Iterable[Decoded], batch_size: int) -> Iterator[list[Decoded]]:
    """Part `items` so that each part but the last has `batch_size` images, however many could not be read between them.

    A part also ends after four times as many items, so that a folder of nothing but bad files streams as well.
    """
    part: list[Decoded] = []
    num_good = 0
    for item in items:
        part.append(item)
        num_good += not isinstance(item[1], ImageError)
        if num_good == batch_size or len(part) == 4 * batch_size:
            yield part
            part, num_good = [], 0
    if part:
        yield part


def predict_batch(
    batch: Sequence[Decoded], predictor: Predictor, root: Path, folders: ClassFolders, score: Score, top_k: int
) -> list[ImageResult]:
    """Return one row for each item of `batch`, in order, and count those whose folder under `root` says their class."""
    good = [pixels for _, pixels in batch if not isinstance(pixels, ImageError)]
    answers: Iterator[Any] = iter(predictor.predict(np.stack(good)) if good else ())  # one (K,) for each good image
    rows = []
    for path, pixels in batch:
        relative = path.relative_to(root)
        label = folders.label(relative)
        error = str(pixels) if isinstance(pixels, ImageError) else None
        top: tuple[Prediction, ...] = ()
        if error is None:
            probabilities = next(answers)
            top = _most_probable(probabilities, predictor.class_names, top_k)
            error = None if top else "the network's answer is not a number"
        if label is not None and top:
            score.add(label, top[0].class_id)
        rows.append(ImageResult(str(relative), top, None if label is None else predictor.class_names[label], error))
    return rows


def _most_probable(probabilities: Any, class_names: Sequence[str], top_k: int) -> tuple[Prediction, ...]:
    """Return the `top_k` most probable classes of (K,), of equal ones the lower id first; () if one is not a number."""
    if not np.isfinite(probabilities).all():
        return ()
    order = np.argsort(-probabilities, kind="stable")[:top_k].tolist()
    return tuple(Prediction(class_names[class_id], class_id, float(probabilities[class_id])) for class_id in order)


def _at_least_one(paths: Iterator[Path], test_dir: str, skipped: Counter[str]) -> Iterator[Path]:
    """Return `paths` unchanged.

    Raises:
        UserError: There is none.
    """
    first = next(paths, None)
    if first is None:
        raise UserError(no_images(test_dir, skipped))
    return chain([first], paths)


def _add_folders(folders: dict[str, None], rows: Sequence[ImageResult]) -> None:
    """Add the names of the folders that the files of `rows` lie in, until there are enough to be named."""
    for row in rows:
        if len(folders) > _MOST_NAMED:
            return
        if (name := os.path.basename(os.path.dirname(row.path))) != "":
            folders[name] = None


def _strange_folders_line(folders: Iterable[str], class_names: Sequence[str]) -> str:
    return (
        f"warning: none of the sub-folders ({_first(list(folders))}) is a class of this checkpoint "
        f"({_first(class_names)}); was another checkpoint meant?"
    )


def _first(names: Sequence[str]) -> str:
    shown = [visible(name) for name in names[:_MOST_NAMED]]
    return ", ".join([*shown, "..."] if len(names) > _MOST_NAMED else shown)


@contextmanager
def _progress(test_dir: str, destination: Destination) -> Iterator["tqdm[Any]"]:
    """Show how far it has come if stderr is a terminal, unless the rows themselves scroll over the same one."""
    shown = sys.stderr.isatty() and not destination.is_terminal()
    total = sum(1 for _ in find_images(test_dir)) if shown else None  # takes a few seconds a million
    with tqdm(total=total, unit=" images", disable=not shown, dynamic_ncols=True, leave=False) as bar:
        yield bar


def _provenance_line(predictor: Predictor) -> str:
    origin = predictor.provenance
    weights = f"weights {origin.get('weights_digest', '?')[:12]}"
    details = [weights, f"tta {predictor.tta}", *(origin[key] for key in ("precision", "device") if key in origin)]
    return f"{origin.get('checkpoint', 'network')}: {', '.join(details)}"


def _summary_line(
    summary: Summary, score: Score, skipped: Counter[str], seconds: float, destination: Destination
) -> str:
    parts = [counted(summary.num_images, "image"), f"{summary.num_failed:,} could not be read"]
    if summary.accuracy is not None:
        parts.append(f"accuracy {summary.accuracy:.2%} ({score.correct:,} of {score.total:,} whose folder is a class)")
    parts.append(f"{summary.num_images / max(seconds, 1e-9):,.0f} images/s")
    if skipped:
        parts.append(describe_skipped(skipped))
    where = f"; written to {destination.path}" if destination.path and not destination.is_stream else ""
    return ", ".join(parts) + where


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
