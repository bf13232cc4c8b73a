"""Trackers: MLflow, or the run folder only."""

import sys
from pathlib import Path
from typing import Any

from cifar10.config.schema import TrackingConfig
from cifar10.runs.mlflow_store import StoreError, probe
from cifar10.runs.mlflow_tracker import MLflowTracker, missing_store
from cifar10.runs.record import RunRecord, Status


class NoTracker:
    """Records nothing in MLflow. If `record` is given, it keeps what `sync` needs besides the files of the run."""

    run_id: str | None = None

    def __init__(self, record: RunRecord | None = None) -> None:
        self._record = record

    def start(self, parameters: dict[str, Any], tags: dict[str, Any], data: dict[str, str]) -> None:
        if self._record is not None:
            self._record.begin(tags, data)

    def finish(self, status: Status) -> None:
        if self._record is not None:
            self._record.close(status)

    def log_history(self, history: list[dict[str, float]]) -> None: ...
    def log_scores(self, scores: dict[str, float], step: int) -> None: ...
    def log_file(self, path: Path, folder: str) -> None: ...
    def describe(self) -> str:
        return "not tracked"


Tracker = MLflowTracker | NoTracker
"""Where a run is recorded."""


def require_store(config: TrackingConfig) -> None:
    """Check that the store is available, if one is required; nothing is created.

    Raises:
        UserError: It is unavailable, and `required` is set.
    """
    if config.backend == "none" or not config.required:
        return
    try:
        probe(config.uri)
    except StoreError as error:
        raise missing_store(str(error)) from None


def open_tracker(config: TrackingConfig, folder: Path, run_id: str | None = None) -> Tracker:
    """Return a tracker for the run in `folder`, which continues the record in the folder, if there is one.

    Args:
        config: Where to record.
        folder: The run's folder.
        run_id: MLflow's id of the run in its checkpoint; that in the folder takes precedence.

    Raises:
        UserError: The store cannot be used and `required` is set, or the folder cannot be written.
    """
    record = RunRecord.of(folder) or RunRecord(folder)
    if record.is_copied():
        print(f"{folder} is a copy of {record.name}; it continues as a separate run", file=sys.stderr)
        record, run_id = RunRecord(folder), None
        record.run_id = None
    if config.backend == "none":
        return NoTracker(record)
    if run_id is not None and record.run_id is None:
        record.run_id = run_id
    tracker = MLflowTracker(config, record)
    tracker.wait_until_open()
    return tracker
