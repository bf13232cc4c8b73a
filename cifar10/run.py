"""The record of a run: its folder, which is always complete, and MLflow, which is told the same.

models/NAME/
    config.yaml   best.ckpt   last.ckpt   run_id
    history.csv   scores.json   curves.png   confusion.png
"""

import csv
import io
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml
from torch import Tensor

from cifar10 import __version__
from cifar10.checkpoint_names import BEST, LAST
from cifar10.checkpoints import FORMAT, Checkpoint, load_checkpoint
from cifar10.config import Config
from cifar10.data.contract import DataSet
from cifar10.errors import UserError
from cifar10.figures import confusion_matrix, learning_curves
from cifar10.processes import Processes, find_processes
from cifar10.provenance import code_state, machine, versions
from cifar10.saving import prepare_folder, write_atomically
from cifar10.tally import Scores
from cifar10.tracking import NoTracker, Tracker, open_tracker
from cifar10.trainer import resolve_precision

_RUN_NAME_VARIABLE = "CIFAR10_RUN_NAME"  # how the processes of one run agree on its folder


@dataclass(frozen=True)
class Run:
    """Where a run is kept. Only the first of several processes writes."""

    config: Config
    data: DataSet
    folder: Path
    tracker: Tracker
    is_first_process: bool

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
        }
        source = {"name": self.data.name, "digest": self.data.digest, "source": self.config.data_loading.target}
        self.tracker.start(_flatten(self.config.plain()), tags, source)
        if self.is_first_process:
            text = yaml.safe_dump(self.config.plain(), sort_keys=False, allow_unicode=True)
            _write_text(self.folder / "config.yaml", text)
            self.tracker.log_file(self.folder / "config.yaml", "")
            self.record_epochs(history)

    def record_epochs(self, history: list[Scores]) -> None:
        """Write all epochs so far to the folder, and send those that MLflow lacks."""
        if history:
            text = io.StringIO()
            writer = csv.DictWriter(text, fieldnames=list(history[0]))
            writer.writeheader()
            writer.writerows(history)
            _write_text(self.folder / "history.csv", text.getvalue())
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
        _write_text(self.folder / "scores.json", json.dumps(facts, indent=2, ensure_ascii=False) + "\n")
        save_figures(history, confusion, self.data.class_names, self.folder)
        self.tracker.log_scores(scores, step=max(len(history) - 1, 0))
        for name in ("scores.json", "history.csv"):
            self.tracker.log_file(self.folder / name, "")
        for name in ("curves.png", "confusion.png"):
            self.tracker.log_file(self.folder / name, "figures")
        self.tracker.log_file(self.folder / BEST, "checkpoints")


def open_run(config: Config, data: DataSet, checkpoint: Checkpoint | None) -> Run:
    """Make the run's folder and open its record, or, with a `checkpoint`, go on with those it came from.

    Raises:
        UserError: The folder cannot be written or holds another run, tracking is required and impossible, or the run
            needs a name.
    """
    processes = find_processes(config.training)
    is_first = processes.is_first
    folder = checkpoint.path.absolute().parent if checkpoint else Path(config.models_dir) / _run_name(config, processes)
    if not is_first:
        return Run(config, data, folder, NoTracker(), is_first)
    prepare_folder(folder)
    if checkpoint is None and (folder / LAST).exists():
        raise UserError(
            f"{folder} already holds a run; go on with it: python commands.py train --resume {folder.name}, "
            "or choose another run_name"
        )
    tracker = open_tracker(config.tracking, folder.name, checkpoint.run_id if checkpoint else None)
    if tracker.run_id is not None:
        _write_text(folder / "run_id", tracker.run_id + "\n")
    return Run(config, data, folder, tracker, is_first)


def save_figures(history: list[Scores], confusion: Tensor, class_names: tuple[str, ...], folder: Path) -> None:
    """Save `confusion.png`, and `curves.png` if there is a history."""
    pictures = {"confusion.png": confusion_matrix(confusion.numpy(), class_names)}
    if history:
        pictures["curves.png"] = learning_curves(history)
    for name, figure in pictures.items():
        write_atomically(folder / name, lambda path, figure=figure: figure.savefig(path, dpi=120, format="png"))  # type: ignore[misc]


def process_seconds() -> Scores:
    """Return the wall and processor time of this process since it was started."""
    return {
        "wall_seconds": time.time() - psutil.Process().create_time(),
        "cpu_seconds": time.process_time(),
    }


def _run_name(config: Config, processes: Processes) -> str:
    """Return the run's name, the same in all its processes."""
    data_name, model_name = (part.target.rsplit(".", 1)[1].lower() for part in (config.data_loading, config.model))
    name = config.run_name or f"{data_name}-{model_name}-{time.strftime('%Y%m%d-%H%M%S')}"
    if processes.launcher == "nobody":
        return name
    if processes.launcher != "lightning":
        if config.run_name is None:  # each process would look at its own clock
            raise UserError(
                f"several processes started by {processes.launcher} must agree on a name: set run_name=NAME"
            )
        return name
    if processes.is_first:
        os.environ[_RUN_NAME_VARIABLE] = name
    return os.environ[_RUN_NAME_VARIABLE]


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested dicts as one, keys joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        flat |= _flatten(value, f"{path}.") if isinstance(value, dict) else {path: value}
    return flat


def _write_text(path: Path, text: str) -> None:
    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    write_atomically(path, write)
