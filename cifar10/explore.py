"""Entry point of `explore`: images -> measures, duplicates, suspected labels -> a report and tables.

OUTPUT/report.html           everything, as pictures
OUTPUT/summary.json          counts and statistics, as on stdout
OUTPUT/images.csv            one row for each image: place, class, file, measures, oddity
OUTPUT/copies.csv            images with equal pixels
OUTPUT/near_duplicates.csv   ranked pairs
OUTPUT/suspected_labels.csv  ranked labels, with `labels`
OUTPUT/unreadable.csv        files that cannot be read, if there are any
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cifar10 import __version__
from cifar10.analysis.appearance import find_odd, mean_images, measure
from cifar10.analysis.descriptors import thumbnails_of
from cifar10.analysis.embeddings import embedder_of
from cifar10.analysis.explore_findings import Findings, copy_counts, is_across
from cifar10.analysis.explore_report import explore_report
from cifar10.analysis.explore_tables import TABLES, explore_tables
from cifar10.analysis.label_issues import LabelIssues, find_label_issues
from cifar10.analysis.near_duplicates import RankedPairs, exact_copies, rank_near_duplicates
from cifar10.config.build import build
from cifar10.config.schema import Component, Config
from cifar10.config.targets import DATA
from cifar10.constants import CIFAR10_MEAN, CIFAR10_STD, CIFAR100_MEAN, CIFAR100_STD
from cifar10.data.collection import Collection, of_data_set, of_photos, unreadable_files
from cifar10.data.image_dataset import ImageDataset, Split
from cifar10.data.stored_images import parts_of
from cifar10.devices import choose_device
from cifar10.errors import UsageError, UserError
from cifar10.files import sole_writer, write_text
from cifar10.images.decode import silence_pillow
from cifar10.images.named_image import ImageSource
from cifar10.networks.normalize import channel_counts
from cifar10.runs.checkpoint_names import resolve_checkpoint
from cifar10.runs.checkpoints import Checkpoint, load_checkpoint
from cifar10.runs.mlflow_store import StoreError, probe
from cifar10.runs.provenance import code_state, versions
from cifar10.runs.record import RECORD, RUN_ID
from cifar10.runs.tracking import open_tracker
from cifar10.system.memory import keep_memory_warm
from cifar10.system.signals import if_stopped
from cifar10.system.streams import print_message
from cifar10.trainer import prepare_cpu
from cifar10.training.out_of_fold import out_of_fold_probabilities, probed_out_of_fold

_FOLDS = 4
_MOST_COMPARED = 300_000  # images; comparing takes 25 times as long as for 60,000
_PHOTO_SIZE = 64  # pixels that photos without a network are reduced to
_CONSTANTS = {"cifar10": (CIFAR10_MEAN, CIFAR10_STD), "cifar100": (CIFAR100_MEAN, CIFAR100_STD)}
_REPORT, _SUMMARY = "report.html", "summary.json"


@dataclass(frozen=True)
class ExploreRequest:
    """What to explore, and how.

    Args:
        config: Its `data_loading`, and, for `labels`, the network and its training.
        photos: Images without labels, in place of those of `config`; None: the data set.
        output: Folder of the files.
        labels: Whether to look for wrong labels.
        checkpoint_name: A network whose embeddings are compared as well; None: no network.
        most: Tiles of the largest gallery.
        tracks: Whether the files are logged in MLflow.
    """

    config: Config
    photos: ImageSource | None
    output: Path
    labels: bool = False
    checkpoint_name: str | None = None
    most: int = 500
    tracks: bool = False


def explore(request: ExploreRequest) -> int:
    """Write the report and its tables, and print a summary as JSON; return how many files cannot be read.

    Raises:
        UserError: The data, the checkpoint or the folder are not as needed.
    """
    started = time.monotonic()
    _require_store(request)
    with sole_writer(request.output):
        return _explore(request, started)


def _explore(request: ExploreRequest, started: float) -> int:
    silence_pillow()
    keep_memory_warm()
    prepare_cpu(request.config.training)
    name = request.checkpoint_name
    checkpoint = None if name is None else load_checkpoint(resolve_checkpoint(name))
    collection = _collection(request, checkpoint)
    _require_labels(request, collection)
    print_message(f"looking at {len(collection):,} images")
    appearance = measure(collection.parts())
    print_message("looking for duplicates")
    copies = exact_copies(collection.digests())
    pairs = _near_duplicates(collection, checkpoint, copies)
    issues = _label_issues(request.config, collection) if request.labels else None
    num_classes = max(1, len(collection.class_names))
    findings = Findings(
        collection=collection,
        counts={name: _class_counts(split, num_classes) for name, split in collection.splits.items()},
        histograms={name: _histogram(split) for name, split in collection.splits.items()},
        constants=_CONSTANTS.get(collection.name) if _is_whole(request.config) else None,
        means=mean_images(collection.parts(), collection.labels, num_classes, collection.image_size),
        appearance=appearance,
        oddities=find_odd(appearance),
        copies=copies,
        pairs=pairs,
        issues=issues,
        compared_by="edges and colours" + (f", and embeddings of {name}" if name else ""),
    )
    summary = _summary(findings)
    summary["seconds"] = round(time.monotonic() - started, 1)
    _write(findings, summary, request)
    print(json.dumps(summary, indent=2, ensure_ascii=False), flush=True)
    print_message(f"written to {request.output}: {_REPORT} and its tables")
    if request.tracks:
        with if_stopped(f"while the report was recorded in MLflow; it is complete in {request.output}"):
            _track(request, summary, collection)
    return len(collection.unreadable)


# -- images ------------------------------------------------------------------------------------------------------------


def _collection(request: ExploreRequest, checkpoint: Checkpoint | None) -> Collection:
    if request.photos is not None:
        return of_photos(request.photos, checkpoint.image_size if checkpoint else _PHOTO_SIZE)
    component = request.config.data_loading
    if component.target.startswith("cifar10.data.cifar."):  # the published splits, in their order
        component = Component.model_validate(component.model_dump() | {"validation_size": 0})
    data: ImageDataset = build(DATA, component)
    if checkpoint is not None and checkpoint.image_size != data.image_size:
        raise UserError(
            f"{checkpoint.path} takes images of {checkpoint.image_size} pixels, and the data have {data.image_size}: "
            f"set data_loading.image_size={checkpoint.image_size}, or take another checkpoint"
        )
    collection = of_data_set(data)
    if component.target == "cifar10.data.folder.folder":
        unreadable = unreadable_files(str(component.arguments["root"]), collection, data.image_size)
        name = Path(str(component.arguments["root"])).resolve().name or collection.name
        return Collection(name, collection.class_names, collection.splits, unreadable)
    return collection


def _is_whole(config: Config) -> bool:
    return config.data_loading.arguments.get("classes") is None


def _class_counts(split: Split, num_classes: int) -> NDArray[np.int64]:
    return np.bincount(split.labels.clamp(min=0).numpy(), minlength=num_classes)


def _histogram(split: Split) -> NDArray[np.int64]:
    """Return the pixels of each level in each channel, (3, 256)."""
    counts = sum((channel_counts(part) for part in parts_of(split.images)), torch.zeros(3, 256, dtype=torch.int64))
    return counts.numpy()


# -- duplicates --------------------------------------------------------------------------------------------------------


def _near_duplicates(
    collection: Collection, checkpoint: Checkpoint | None, copies: Sequence[NDArray[np.int64]]
) -> RankedPairs | None:
    """Return ranked pairs without exact copies; None if there are too many images to compare."""
    if len(collection) > _MOST_COMPARED:
        print_message(f"near-duplicates are not searched for among more than {_MOST_COMPARED:,} images")
        return None
    thumbnails = torch.cat([thumbnails_of(split.images) for split in collection.splits.values()])
    embeddings = None if checkpoint is None else _embeddings(checkpoint, collection)
    ranked = rank_near_duplicates(thumbnails, embeddings)
    group_of = np.arange(len(collection))
    for group in copies:
        group_of[group] = group[0]
    return ranked.take(group_of[ranked.first] != group_of[ranked.second])


def _embeddings(checkpoint: Checkpoint, collection: Collection) -> NDArray[np.float32]:
    embedder = embedder_of(checkpoint, choose_device("auto"), None)
    return np.concatenate([embedder.embeddings(split.images, name) for name, split in collection.splits.items()])


# -- labels ------------------------------------------------------------------------------------------------------------


def _require_labels(request: ExploreRequest, collection: Collection) -> None:
    if not request.labels:
        return
    counts = np.bincount(collection.labels, minlength=len(collection.class_names))
    if counts.min() < _FOLDS:
        name = collection.class_names[int(counts.argmin())]
        raise UserError(
            f"--labels needs {_FOLDS} images of each class, and {name} has {counts.min()}; add some, or leave it out "
            "with data_loading.classes=[...]"
        )


def _label_issues(config: Config, collection: Collection) -> LabelIssues:
    images = torch.cat([split.images[:] for split in collection.splits.values()])
    pool = Split(images, torch.from_numpy(collection.labels))
    judge = out_of_fold_probabilities if config.probe is None else probed_out_of_fold
    return find_label_issues(collection.labels, judge(config, pool, collection.class_names, _FOLDS))


# -- files -------------------------------------------------------------------------------------------------------------


def _summary(findings: Findings) -> dict[str, Any]:
    collection, (oddities, _) = findings.collection, findings.oddities
    copies = copy_counts(collection, findings.copies)
    summary: dict[str, Any] = {
        "name": collection.name,
        "images": {name: len(split) for name, split in collection.splits.items()},
        "classes": len(collection.class_names),
        "image_size": collection.image_size,
        "exact_copies": copies.spare,
        "pictures_copied_across_splits": copies.across,
        "pictures_copied_with_different_labels": copies.contradictory,
        "odd_images": {str(name): int((oddities == name).sum()) for name in np.unique(oddities) if name},
        "unreadable": len(collection.unreadable),
    }
    if findings.pairs is not None:
        likely = findings.pairs.take(findings.pairs.is_likely)
        across = likely.take(is_across(collection, likely))
        summary["near_duplicates"] = len(np.unique(likely.second))
        summary["near_duplicates_across_splits"] = len(np.unique(across.second))
    if findings.issues is not None:
        suspected, splits = findings.issues.is_suspected, collection.split_ids
        summary["suspected_labels"] = {
            name: int(suspected[splits == number].sum()) for number, name in enumerate(collection.split_names)
        }
    return summary


def _write(findings: Findings, summary: Mapping[str, Any], request: ExploreRequest) -> None:
    state = code_state()
    origin = [
        ("made", time.strftime("%Y-%m-%d %H:%M:%S")),
        ("program", f"cifar10 {__version__}, commit {str(state['git_commit'])[:12]}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions().items())),
        ("seconds", str(summary["seconds"])),
    ]
    tables = explore_tables(findings)
    _remove_earlier(request.output, [name for name in TABLES if name not in tables])
    for name, table in tables.items():
        text = table.to_csv(index=False, float_format="%.5g", lineterminator="\n")
        write_text(request.output / name, text.encode("utf-8", "backslashreplace").decode())
    write_text(request.output / _SUMMARY, json.dumps(summary, indent=2) + "\n")
    explore_report(findings, request.most, origin).write(request.output / _REPORT)


def _remove_earlier(folder: Path, tables: Sequence[str]) -> None:
    """Remove what an earlier exploration, perhaps of other data, has left: these tables, and its record for MLflow."""
    if not (folder / _SUMMARY).is_file():  # files of these names are somebody else's
        return
    for name in (*tables, RECORD, RUN_ID):
        (folder / name).unlink(missing_ok=True)


def _require_store(request: ExploreRequest) -> None:
    """Refuse `tracks` if the store is not available now: only runs of training can be recorded later."""
    tracking = request.config.tracking
    if request.tracks and tracking.backend == "none":
        raise UsageError("--track and tracking=none contradict each other; leave one out")
    if request.tracks:
        try:
            probe(tracking.uri)
        except StoreError as error:
            raise UserError(f"--track: {error}; start it, or leave out --track") from None


def _track(request: ExploreRequest, summary: Mapping[str, Any], collection: Collection) -> None:
    """Log the numbers and files as a run in MLflow."""
    tracker = open_tracker(request.config.tracking, request.output)
    settings = request.config.data_loading.model_dump() if request.photos is None else {"photos": request.photos.given}
    tracker.start(
        {"data_loading": settings}, {"kind": "explore"}, {"name": collection.name, "digest": "", "source": "explore"}
    )
    numbers = {name: float(value) for name, value in summary.items() if isinstance(value, int | float)}
    tracker.log_scores({f"explore/{name}": value for name, value in numbers.items()}, step=0)
    for path in sorted(request.output.glob("*.*")):
        if path.suffix in (".html", ".csv") or path.name == _SUMMARY:
            tracker.log_file(path, "explore")
    tracker.finish("FINISHED")
    print_message(f"tracked  {tracker.describe()}")
