"""Add results to the record of a finished run in MLflow, if it has one and its store is available."""

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from cifar10.config.mlflow_uri import shown_uri
from cifar10.errors import UserError
from cifar10.runs.checkpoints import Checkpoint
from cifar10.runs.known_stores import unknown_settings
from cifar10.runs.mlflow_entities import metrics
from cifar10.runs.mlflow_store import StoreError, connect, connect_for_reading, probe, reason_of
from cifar10.runs.record import RunRecord


def add_to_run(checkpoint: Checkpoint, scores: Mapping[str, float | None], files: Sequence[Path], folder: str) -> bool:
    """Send scores and files to the run of a checkpoint, and return whether it has them.

    A run that was not tracked is left alone. If its store is unavailable or unknown here, one line on stderr says so.

    Args:
        checkpoint: Of the run.
        scores: By their names in MLflow.
        files: Become artifacts.
        folder: Of the artifacts.
    """
    tracking = checkpoint.config.tracking
    run_id = checkpoint.run_id or RunRecord(checkpoint.path.parent).run_id  # if MLflow was slow at the first step
    if tracking.backend == "none" or run_id is None:
        return False
    place = f"MLflow at {shown_uri(tracking.uri)}"
    if unknown_settings(tracking):
        _note(f"not recorded: {place}, which the checkpoint names, is not configured here (MLFLOW_TRACKING_URI)")
        return False
    try:
        connect_for_reading(tracking.uri)
        probe(tracking.uri)
        client = connect(tracking.uri)
        step, now = max(len(checkpoint.history) - 1, 0), int(time.time() * 1000)
        client.log_batch(run_id, metrics=metrics(scores, now, step))
        for file in files:
            client.log_artifact(run_id, str(file), folder)
    except (StoreError, UserError) as error:
        _note(f"not recorded in MLflow: {error}")
        return False
    except Exception as error:  # MLflow raises its own, requests', SQLAlchemy's and OSError
        _note(f"not recorded: {place} did not accept it: {reason_of(error)}")
        return False
    return True


def _note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr, flush=True)
