"""Evaluate the trained runs of a comparison: every image of every split, by the best weights of each run."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from cifar10.analysis.network_summary import NetworkSummary, summarize
from cifar10.analysis.pooling_results import SPLITS, PoolingResults, SeedResult, WayResult
from cifar10.config.build import build
from cifar10.config.targets import MODEL
from cifar10.data.image_dataset import ImageDataset
from cifar10.errors import UserError
from cifar10.laboratory.folder import Laboratory
from cifar10.runs.checkpoint_names import BEST
from cifar10.runs.checkpoints import Checkpoint, load_checkpoint
from cifar10.runs.folder import HISTORY
from cifar10.runs.recorded_run import read_history

_IMAGES_AT_ONCE = 500


def evaluate_runs(laboratory: Laboratory, data: ImageDataset, failures: Mapping[str, str]) -> PoolingResults:
    """Return what the finished runs predict, with their learning curves; `failures` have no result.

    Raises:
        UserError: No run is finished.
    """
    names = [name for name in laboratory.finished() if name not in failures]
    if not names:
        raise UserError(f"no network could be trained: {next(iter(failures.values()))}; see {laboratory.folder}")
    ways: dict[str, dict[int, SeedResult]] = {}
    for name in names:
        way, seed = laboratory.runs[name]
        ways.setdefault(way, {})[seed] = _evaluate(laboratory, name, data)
    ordered = [WayResult(way, ways[way]) for way in laboratory.pooling.ways if way in ways]
    labels = {split: data.splits[split].labels.numpy() for split in SPLITS}
    return PoolingResults(data.class_names, labels, ordered, failures)


def _evaluate(laboratory: Laboratory, name: str, data: ImageDataset) -> SeedResult:
    folder = laboratory.folder / name
    checkpoint = load_checkpoint(folder / BEST)
    history = read_history(folder / HISTORY)
    return SeedResult(
        name=name,
        history=history,
        best_epoch=len(checkpoint.history),
        predictions=predict(checkpoint, data),
        train_seconds=sum(epoch["seconds"] for epoch in history),
    )


def predict(checkpoint: Checkpoint, data: ImageDataset) -> Mapping[str, NDArray[np.int64]]:
    """Return the most probable class of each image of each split, in float32 with PyTorch's own operators."""
    network = checkpoint.network()
    with torch.inference_mode():
        return {
            split: np.concatenate(
                [
                    network(images).argmax(dim=1).numpy()
                    for images in data.splits[split].images.split(_IMAGES_AT_ONCE)  # type: ignore[union-attr]
                ]
            )
            for split in SPLITS
        }


def summarize_networks(laboratory: Laboratory, data: ImageDataset) -> dict[str, NetworkSummary]:
    """Return way -> its network, layer by layer."""
    return {
        way: summarize(
            build(MODEL, laboratory.model_of(way), num_classes=data.num_classes, image_size=data.image_size),
            data.image_size,
        )
        for way in laboratory.pooling.ways
    }
