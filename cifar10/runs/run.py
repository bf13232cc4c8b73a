"""An open run: its folder, which is always complete, and the tracker, which records the same information.

models/NAME/
    config.yaml   best.ckpt   last.ckpt   run_id   run.json   .lock
    history.csv   scores.json   curves.png   confusion.png
"""

import csv
import io
import json
import math
import os
import re
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml

from cifar10 import __version__
from cifar10.config.schema import Config
from cifar10.data.image_dataset import ImageDataset
from cifar10.errors import UsageError
from cifar10.files import atomic_write, write_text
from cifar10.runs.checkpoint_metadata import FORMAT, Metadata
from cifar10.runs.checkpoint_names import BEST
from cifar10.runs.checkpoints import Checkpoint, load_checkpoint
from cifar10.runs.folder import ARTIFACTS, CONFIG, HISTORY, SCORES, RunFolder, claim_existing, claim_new, is_folder_of
from cifar10.runs.mlflow_entities import code_and_data_tags
from cifar10.runs.provenance import code_state, machine, versions
from cifar10.runs.record import Status
from cifar10.runs.tracking import NoTracker, Tracker, open_tracker, require_store
from cifar10.system.processes import Processes, find_processes
from cifar10.types import Metrics

_RUN_NAME_VARIABLE = "CIFAR10_RUN_NAME"  # makes the processes of one run use the same folder


@dataclass(frozen=True)
class Run:
    """An open run. Only its first process writes files and uses the tracker.

    Args:
        folder: The run folder.
        tracker: Records the run in MLflow.
        claim: The claim of the folder; None in all processes but the first.
        origin: Code, data and versions when the run was opened, for checkpoints, scores.json and MLflow.
        tags: Further tags in MLflow.
    """

    folder: Path
    tracker: Tracker
    claim: RunFolder | None
    origin: dict[str, Any]
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_first_process(self) -> bool:
        return self.claim is not None

    @property
    def metadata(self) -> dict[str, Any]:
        """Content of a checkpoint besides weights, configuration and history; plain values only."""
        return {**self.origin, "run_id": self.tracker.run_id}

    def close(self, status: Status) -> None:
        """Close the record in MLflow as FINISHED, FAILED or KILLED, and release the folder."""
        self.tracker.finish(status)
        if self.claim is not None:
            self.claim.release()

    def begin(self, config: Config, num_parameters: int, history: list[Metrics]) -> None:
        """Record the information known before the first step; `history` holds the epochs before a resume."""
        tags = {
            **code_and_data_tags(self.origin, config.model.target),
            **{
                f"machine.{key}": " ".join(x) if isinstance(x, list) else x for key, x in self.origin["machine"].items()
            },
            "num_parameters": num_parameters,
            **self.tags,
        }
        name, digest = self.origin["data_name"], self.origin["data_digest"]
        self.tracker.start(config.plain(), tags, {"name": name, "digest": digest, "source": config.data_loading.target})
        if self.is_first_process:
            text = yaml.safe_dump(config.plain(), sort_keys=False, allow_unicode=True)
            write_text(self.folder / CONFIG, text)
            self.tracker.log_file(self.folder / CONFIG, "")
            self.record_epochs(history)

    def record_epochs(self, history: list[Metrics]) -> None:
        """Write all epochs so far to the folder, and send those that MLflow lacks."""
        if history:
            text = io.StringIO()
            writer = csv.DictWriter(text, fieldnames=list(history[0]))
            writer.writeheader()
            writer.writerows({name: finite_or_none(value) for name, value in epoch.items()} for epoch in history)
            write_text(self.folder / HISTORY, text.getvalue())
            self.tracker.log_history(history)

    def record_scores(self, scores: Metrics, seed: int, num_epochs: int, weights_digest: str) -> None:
        """Write the final scores and their provenance."""
        counts = {"seed": seed, "epochs": num_epochs, "weights_digest": weights_digest}
        facts = {**scores, **counts, **self.metadata}
        facts = {name: finite_or_none(value) for name, value in facts.items()}
        text = json.dumps(facts, indent=2, ensure_ascii=False, allow_nan=False)
        write_text(self.folder / SCORES, text + "\n")
        self.tracker.log_scores(scores, step=max(num_epochs - 1, 0))

    def send_files(self) -> None:
        """Send scores, history, figures and the best checkpoint, which are in the folder."""
        for name, place in ARTIFACTS.items():
            if name != CONFIG and (self.folder / name).is_file():  # CONFIG is sent by `begin`
                self.tracker.log_file(self.folder / name, place)


def open_run(
    config: Config,
    data: ImageDataset,
    precision: str,
    checkpoint: Checkpoint | None = None,
    initial_weights: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> Run:
    """Claim the run folder and open the record; with a `checkpoint` in its own run folder, continue both.

    A checkpoint elsewhere is continued in a new folder in `config.models_dir`, with a new record, because the files
    beside it may belong to another user.

    Args:
        config: The configuration of the run.
        data: The data set.
        precision: fp32, bf16 or fp16.
        checkpoint: The checkpoint to resume from.
        initial_weights: Digest of the weights that a new run starts from; None: random ones.
        tags: Further tags in MLflow.

    Raises:
        UserError: The folder cannot be written or belongs to another run, tracking is required and impossible, or the
            run needs a name.
    """
    origin = _origin(data, precision, initial_weights)
    if checkpoint is not None and _is_changed(checkpoint.metadata, origin):
        origin["several_origins"] = True
    processes = find_processes(config.training)
    resumed = checkpoint
    if checkpoint is not None and not is_folder_of(config, checkpoint.path.parent, Path(config.models_dir)):
        resumed = None
    if not processes.is_first:
        folder = resumed.path.parent if resumed else Path(config.models_dir) / _run_name(config, processes)
        return Run(folder, NoTracker(), None, origin)
    require_store(config.tracking)
    claim = claim_existing(resumed.path.parent) if resumed else _claim_new(config, processes)
    try:
        if resumed and load_checkpoint(resumed.path).history != resumed.history:  # changed before the claim
            raise UsageError(f"another process has just trained in {claim.path}; type the same line again")
        tracker = open_tracker(config.tracking, claim.path, resumed.run_id if resumed else None)
        if checkpoint is not None and not resumed:
            _copy_best(checkpoint, claim.path)
    except BaseException:
        claim.release()
        raise
    return Run(claim.path, tracker, claim, origin, tags or {})


def _origin(data: ImageDataset, precision: str, initial_weights: str | None) -> dict[str, Any]:
    """Return code, data, versions and machine."""
    return {
        "format": FORMAT,
        "program": f"cifar10 {__version__}",
        "class_names": list(data.class_names),
        "image_size": data.image_size,
        "data_name": data.name,
        "data_digest": data.digest,
        "precision": precision,
        **code_state(),
        "versions": versions(),
        "machine": machine(),
        "threads": torch.get_num_threads(),
        **({"initial_weights": initial_weights} if initial_weights else {}),
    }


def _is_changed(before: Metadata, origin: Mapping[str, Any]) -> bool:
    """Return whether code, versions or machine are others than those of the checkpoint, or had changed before it."""
    keys = ("code_digest", "versions", "machine", "threads", "precision")
    return before.several_origins or any(getattr(before, key) != origin[key] for key in keys)


def _claim_new(config: Config, processes: Processes) -> RunFolder:
    """Claim a new folder, and pass its name to the processes that Lightning will start."""
    claim = claim_new(Path(config.models_dir), _run_name(config, processes), may_be_renamed=config.run_name is None)
    if processes.launcher == "lightning":
        os.environ[_RUN_NAME_VARIABLE] = claim.path.name
    return claim


def _copy_best(checkpoint: Checkpoint, folder: Path) -> None:
    """Print where the run continues, and copy the best epoch so far, if it is beside the checkpoint and of its run."""
    print(f"{checkpoint.path} is not in the run folder it was written to; it continues in {folder}", file=sys.stderr)
    if has_best_beside(checkpoint):
        with checkpoint.path.with_name(BEST).open("rb") as content, atomic_write(folder / BEST) as file:
            shutil.copyfileobj(content, file)


def has_best_beside(checkpoint: Checkpoint) -> bool:
    """Return whether the best epoch of the same run is beside the checkpoint."""
    beside = checkpoint.path.with_name(BEST)
    if not beside.is_file():
        return False
    best = load_checkpoint(beside)
    return best.config == checkpoint.config and best.history == checkpoint.history[: len(best.history)]


def finite_or_none(value: Any) -> Any:
    """Return `value`, or None for a float that JSON has no number for."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _run_name(config: Config, processes: Processes) -> str:
    """Return the run's name, the same in all its processes. Without `run_name`, it contains the time of day."""
    if config.run_name is None and processes.launcher in ("torchrun", "srun"):  # each has its own clock
        raise UsageError(f"several processes started by {processes.launcher} must agree on a name: set run_name=NAME")
    if processes.is_launched_by_lightning:
        return os.environ[_RUN_NAME_VARIABLE]
    data_name, model_name = (part.target.rsplit(".", 1)[1].lower() for part in (config.data_loading, config.model))
    if isinstance(published := config.model.arguments.get("name"), str):  # of torchvision or timm
        model_name = re.sub(r"\W", "_", published)
    return config.run_name or f"{data_name}-{model_name}-{time.strftime('%Y%m%d-%H%M%S')}"
