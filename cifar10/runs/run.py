"""The record of a run: its folder, which is always complete, and MLflow, which is told the same.

models/NAME/
    config.yaml   best.ckpt   last.ckpt   run_id   run.json   .lock
    history.csv   scores.json   curves.png   confusion.png
"""

import csv
import io
import json
import math
import os
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.style
import yaml
from torch import Tensor

from cifar10 import __version__
from cifar10.analysis.figures import confusion_matrix, learning_curves
from cifar10.config.schema import Config
from cifar10.data.contract import DataSet
from cifar10.errors import Misuse
from cifar10.runs.checkpoint_names import BEST
from cifar10.runs.checkpoints import FORMAT, Checkpoint, load_checkpoint
from cifar10.runs.folder import (
    CONFIG,
    FIGURES,
    HISTORY,
    SCORES,
    RunFolder,
    claim_existing,
    claim_new,
    is_folder_of,
    write_atomically,
)
from cifar10.runs.provenance import code_state, machine, versions
from cifar10.runs.record import Status
from cifar10.runs.tracking import NoTracker, Tracker, open_tracker, require_store
from cifar10.system.processes import Processes, find_processes
from cifar10.trainer import resolve_precision
from cifar10.training.running_metrics import Scores

_RUN_NAME_VARIABLE = "CIFAR10_RUN_NAME"  # how the processes of one run agree on its folder


@dataclass(frozen=True)
class Run:
    """Where a run is kept. Only the first of several processes writes."""

    config: Config
    data: DataSet
    folder: Path
    tracker: Tracker
    claim: RunFolder | None
    """None in all processes but the first."""
    initial_weights: str | None = None
    """Digest of the weights that the network started from, None for random ones."""

    @property
    def is_first_process(self) -> bool:
        return self.claim is not None

    def close(self, status: Status) -> None:
        """End MLflow's record as FINISHED, FAILED or KILLED, and let others have the folder."""
        self.tracker.finish(status)
        if self.claim is not None:
            self.claim.release()

    def identity(self) -> dict[str, Any]:
        """Return what a checkpoint says of itself beside weights and configuration; plain values only."""
        return {
            "format": FORMAT,
            "program": f"cifar10 {__version__}",
            "class_names": list(self.data.class_names),
            "image_size": self.data.image_size,
            "data_name": self.data.name,
            "data_digest": self.data.digest,
            "precision": resolve_precision(self.config.training),
            "run_id": self.tracker.run_id,
            **code_state(),
            "versions": versions(),
            **({"initial_weights": self.initial_weights} if self.initial_weights else {}),
        }

    def begin(self, num_parameters: int, history: list[Scores]) -> None:
        """Record what is known before the first step; `history` is what a resumed run has behind it."""
        identity = self.identity()
        plain = ("git_commit", "git_dirty", "code_digest", "data_digest", "precision", "program")
        tags = {
            **{key: identity[key] for key in plain},
            **{f"version.{name}": number for name, number in identity["versions"].items()},
            **{f"machine.{key}": " ".join(x) if isinstance(x, list) else x for key, x in machine().items()},
            "num_parameters": num_parameters,
            "data": self.data.name,
            "model": self.config.model.target.rpartition(".")[2],
        }
        source = {"name": self.data.name, "digest": self.data.digest, "source": self.config.data_loading.target}
        self.tracker.start(self.config.plain(), tags, source)
        if self.is_first_process:
            text = yaml.safe_dump(self.config.plain(), sort_keys=False, allow_unicode=True)
            _write_text(self.folder / CONFIG, text)
            self.tracker.log_file(self.folder / CONFIG, "")
            self.record_epochs(history)

    def record_epochs(self, history: list[Scores]) -> None:
        """Write all epochs so far to the folder, and send those that MLflow lacks."""
        if history:
            text = io.StringIO()
            writer = csv.DictWriter(text, fieldnames=list(history[0]))
            writer.writeheader()
            writer.writerows({name: finite_or_none(value) for name, value in epoch.items()} for epoch in history)
            _write_text(self.folder / HISTORY, text.getvalue())
            self.tracker.log_history(history)

    def record_scores(self, scores: Scores, history: list[Scores], confusion: Tensor) -> None:
        """Write scores, their circumstances and figures, and send them with the best checkpoint."""
        facts = {
            **scores,
            "seed": self.config.seed,
            "epochs": len(history),
            "weights_digest": load_checkpoint(self.folder / BEST).weights_digest,
            **self.identity(),
            "machine": machine(),
        }
        facts = {name: finite_or_none(value) for name, value in facts.items()}
        text = json.dumps(facts, indent=2, ensure_ascii=False, allow_nan=False)
        _write_text(self.folder / SCORES, text + "\n")
        save_figures(history, confusion, self.data.class_names, self.folder)
        self.tracker.log_scores(scores, step=max(len(history) - 1, 0))
        for name in (SCORES, HISTORY):
            self.tracker.log_file(self.folder / name, "")
        for name in FIGURES:
            self.tracker.log_file(self.folder / name, "figures")
        self.tracker.log_file(self.folder / BEST, "checkpoints")


def open_run(config: Config, data: DataSet, checkpoint: Checkpoint | None, initial_weights: str | None = None) -> Run:
    """Claim the run's folder and open its record, or, with a `checkpoint` in its own run folder, go on with those.

    A checkpoint that lies elsewhere goes on in a new folder in `config.models_dir`, with a record of its own: what lies
    beside it is somebody else's.

    Raises:
        UserError: The folder cannot be written or belongs to another run, tracking is required and impossible, or the
            run needs a name.
    """
    goes_on = checkpoint is not None and is_folder_of(config, checkpoint.path.parent, Path(config.models_dir))
    processes = find_processes(config.training)
    if not processes.is_first:
        if checkpoint and goes_on:
            folder = checkpoint.path.parent
        else:
            folder = Path(config.models_dir) / _run_name(config, processes)
        return Run(config, data, folder, NoTracker(), None, initial_weights)
    require_store(config.tracking)
    claim = claim_existing(checkpoint.path.parent) if checkpoint and goes_on else _claim_new(config, processes)
    try:
        if checkpoint is not None and goes_on:
            _refuse_overtaken(checkpoint)
        run_id = checkpoint.run_id if checkpoint and goes_on else None
        tracker = open_tracker(config.tracking, claim.path, run_id)
        if checkpoint is not None and not goes_on:
            _take_along_best(checkpoint, claim.path)
    except BaseException:
        claim.release()
        raise
    return Run(config, data, claim.path, tracker, claim, initial_weights)


def _refuse_overtaken(checkpoint: Checkpoint) -> None:
    """Refuse to go on from what another process has trained on from, between the reading of it and the claim.

    Raises:
        Misuse: The file holds more epochs today.
    """
    if load_checkpoint(checkpoint.path).history != checkpoint.history:
        raise Misuse(f"another process has just trained on in {checkpoint.path.parent}; type the same line again")


def _claim_new(config: Config, processes: Processes) -> RunFolder:
    """Claim a new folder, and let the processes that Lightning will start know its name."""
    may_be_renamed = config.run_name is None
    claim = claim_new(Path(config.models_dir), _run_name(config, processes), may_be_renamed)
    if processes.launcher == "lightning":
        os.environ[_RUN_NAME_VARIABLE] = claim.path.name
    return claim


def _take_along_best(checkpoint: Checkpoint, folder: Path) -> None:
    """Say where the run goes on, and copy the best epoch so far, if it lies beside the checkpoint and is of its run."""
    print(f"{checkpoint.path} is not in the run folder that it was written to; it goes on in {folder}", file=sys.stderr)
    beside = checkpoint.path.with_name(BEST)
    if not beside.is_file():
        return
    best = load_checkpoint(beside)
    if best.config == checkpoint.config and best.history == checkpoint.history[: len(best.history)]:
        write_atomically(folder / BEST, lambda temporary: shutil.copyfile(beside, temporary))


def save_figures(history: list[Scores], confusion: Tensor, class_names: tuple[str, ...], folder: Path) -> None:
    """Save `confusion.png`, and `curves.png` if there is a history; a `matplotlibrc` of the user has no effect."""
    with matplotlib.style.context("default"):  # text.usetex=True would need LaTeX, at the end of a run of hours
        pictures = {"confusion.png": confusion_matrix(confusion.numpy(), class_names)}
        if history:
            pictures["curves.png"] = learning_curves(history)
        for name, figure in pictures.items():
            write_atomically(folder / name, lambda path, figure=figure: figure.savefig(path, dpi=120, format="png"))  # type: ignore[misc]


def finite_or_none(value: Any) -> Any:
    """Return `value`, or None for a float that JSON has no number for."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _run_name(config: Config, processes: Processes) -> str:
    """Return the run's name, the same in all its processes; that of one without a name depends on the time of day."""
    if config.run_name is None and processes.launcher in ("torchrun", "srun"):  # each would look at its own clock
        raise Misuse(f"several processes started by {processes.launcher} must agree on a name: set run_name=NAME")
    if processes.is_launched_by_lightning:
        return os.environ[_RUN_NAME_VARIABLE]
    data_name, model_name = (part.target.rsplit(".", 1)[1].lower() for part in (config.data_loading, config.model))
    return config.run_name or f"{data_name}-{model_name}-{time.strftime('%Y%m%d-%H%M%S')}"


def _write_text(path: Path, text: str) -> None:
    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    write_atomically(path, write)
