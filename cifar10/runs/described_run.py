"""A run by what it says of itself: its settings, learning curves, origin, and its checkpoint if there is one.

It is read from a run folder or a checkpoint file, or from MLflow if nothing is left on this machine.
"""

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cifar10.config.run_name import MLFLOW_RUN_ID
from cifar10.config.schema import flatten
from cifar10.errors import CheckpointError, UserError
from cifar10.runs.checkpoint_names import BEST, LAST, find_locally, resolve_checkpoint
from cifar10.runs.checkpoints import Checkpoint, load_checkpoint
from cifar10.runs.folder import HISTORY
from cifar10.runs.recorded_run import read_history
from cifar10.runs.run_claims import read_scores
from cifar10.runs.tracked_run import TrackedRun, read_tracked_run

_PLACES = (
    *("run_name", "models_dir", "data_loading.root", "data_loading.sources", "data_loading.cache", "probe.cache"),
    "training.save_every_seconds",
)
_SEED = "seed"


@dataclass(frozen=True, eq=False)
class DescribedRun:
    """A run, as far as it is known."""

    name: str
    """As it was named on the command line, or a shorter name."""
    settings: dict[str, str]
    """By their dotted keys, without names and places, which change nothing."""
    origin: dict[str, str]
    """Data, code, versions and machine, as far as they were recorded."""
    history: list[dict[str, float]]
    """The scores of each epoch."""
    scores: dict[str, float]
    """Final scores as recorded; empty if the run is not finished."""
    checkpoint: Checkpoint | None
    """None: MLflow has the record only."""
    problem: str = ""
    """Why there is no checkpoint."""

    @property
    def seed(self) -> int:
        """The seed; -1 if it was not recorded."""
        text = self.settings.get(_SEED, "")
        return int(text) if text.isdecimal() else -1

    @property
    def recipe(self) -> tuple[tuple[str, str], ...]:
        """Everything that runs share which differ by the seed only: settings and the data."""
        settings = {key: value for key, value in self.settings.items() if key != _SEED}
        return tuple(sorted({**settings, "data": self.origin.get("data digest", "")}.items()))


def describe_run(name: str) -> DescribedRun:
    """Return the run that `name` refers to, as `resolve_checkpoint` does.

    Raises:
        UserError: There is no such run, or its checkpoint is damaged.
    """
    if MLFLOW_RUN_ID.fullmatch(name) and find_locally(name) is None:
        return _from_mlflow(name)
    file = resolve_checkpoint(name)
    checkpoint = load_checkpoint(file)
    is_of_run = file.name in (BEST, LAST)
    facts = read_scores(file.parent) if is_of_run else {}
    history = _longer(checkpoint.history, _history(file.parent / HISTORY) if is_of_run else [])
    shown = name if name.startswith(("models:/", "runs:/")) else file.parent.name if is_of_run else str(file)
    if file.name == LAST and (file.parent / BEST).is_file():
        shown = f"{shown} ({LAST})"
    scores = {
        key: float(value)
        for key, value in facts.items()
        if "/" in key and isinstance(value, int | float) and math.isfinite(value)
    }
    return DescribedRun(
        name=shown,
        settings=_lasting({key: str(value) for key, value in flatten(checkpoint.config.plain()).items()}),
        origin=_origin_of(checkpoint, facts),
        history=history,
        scores=scores,
        checkpoint=checkpoint,
    )


def _from_mlflow(run_id: str) -> DescribedRun:
    tracked, checkpoint, problem = read_tracked_run(run_id), None, ""
    try:
        checkpoint = load_checkpoint(resolve_checkpoint(run_id))
    except CheckpointError as error:
        problem = str(error)
    if checkpoint is None:
        settings, origin = tracked.parameters, _origin_of_tags(tracked)
    else:
        settings = {key: str(value) for key, value in flatten(checkpoint.config.plain()).items()}
        origin = _origin_of(checkpoint, {})
    return DescribedRun(
        name=tracked.name,
        settings=_lasting(settings),
        origin=origin,
        history=_longer(checkpoint.history if checkpoint else [], tracked.history),
        scores={
            key: value for key, value in tracked.scores.items() if key.startswith("test/") and math.isfinite(value)
        },
        checkpoint=checkpoint,
        problem=problem,
    )


def _lasting(settings: Mapping[str, str]) -> dict[str, str]:
    """Return the settings without names and places."""
    return {
        key: value
        for key, value in settings.items()
        if key not in _PLACES and not key.startswith("tracking.") and value != "{}"
    }


def _origin_of(checkpoint: Checkpoint, facts: Mapping[str, Any]) -> dict[str, str]:
    metadata = checkpoint.metadata
    recorded = metadata.machine or facts.get("machine")
    machine = recorded if isinstance(recorded, dict) else {}
    wall = facts.get("wall_seconds")
    found = {
        "data": metadata.data_name,
        "data digest": metadata.data_digest[:12],
        "epochs trained": facts.get("epochs", len(checkpoint.history)),
        "seconds": None if not isinstance(wall, int | float) else round(wall),
        "precision": metadata.precision,
        "code": metadata.code_digest and metadata.code_digest[:12],
        "commit": metadata.git_commit and metadata.git_commit[:12],
        "starts from": metadata.initial_weights and metadata.initial_weights[:12],
        "processor": machine.get("cpu"),
        "threads": metadata.threads,
        "GPU": machine.get("gpu"),
        **{f"{name} version": number for name, number in metadata.versions.items()},
        "weights": checkpoint.weights_digest[:12],
    }
    return {key: str(value) for key, value in found.items() if value not in (None, {}, "")}


def _origin_of_tags(tracked: TrackedRun) -> dict[str, str]:
    tags = tracked.tags
    found = {
        "data": tags.get("data"),
        "data digest": tags.get("data_digest", "")[:12],
        "epochs trained": str(len(tracked.history)),
        "seconds": f"{tracked.scores['wall_seconds']:.0f}" if "wall_seconds" in tracked.scores else None,
        "precision": tags.get("precision"),
        "code": tags.get("code_digest", "")[:12],
        "commit": tags.get("git_commit", "")[:12],
        "processor": tags.get("machine.cpu"),
        "GPU": tags.get("machine.gpu"),
        **{
            f"{key.removeprefix('version.')} version": value
            for key, value in tags.items()
            if key.startswith("version.")
        },
    }
    return {key: value for key, value in found.items() if value}


def _history(path: Path) -> list[dict[str, float]]:
    try:
        return read_history(path)
    except (OSError, ValueError, csv.Error, UserError):
        return []


def _longer(own: list[dict[str, float]], recorded: list[dict[str, float]]) -> list[dict[str, float]]:
    """Return the longer history; that of a checkpoint ends with its own epoch."""
    known = [entry for entry in recorded if "epoch" in entry]
    return known if len(known) > len(own) else [{"epoch": number, **entry} for number, entry in enumerate(own)]
