"""Trackers: MLflow, or the run folder only."""

import sys
from pathlib import Path
from typing import Any, Protocol

from cifar10.config.schema import TrackingConfig
from cifar10.runs.mlflow_store import StoreError, probe
from cifar10.runs.mlflow_tracker import MLflowTracker, missing_store
from cifar10.runs.record import RunRecord, Status


class Tracker(Protocol):
    """Where a run is recorded."""

    @property
    def run_id(self) -> str | None:
        """MLflow's id of the run; None if it has none, or none yet."""
        ...

    def start(self, parameters: dict[str, Any], tags: dict[str, Any], data: dict[str, str]) -> None: ...
    def log_history(self, history: list[dict[str, float]]) -> None: ...
    def log_scores(self, scores: dict[str, float], step: int) -> None: ...
    def log_file(self, path: Path, folder: str) -> None: ...
    def finish(self, status: Status) -> None: ...
    def describe(self) -> str: ...


class NoTracker:
    """Records nothing in MLflow; the run's folder has it all, and `record`, if given, what `sync` needs beside it."""

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


def require_store(config: TrackingConfig) -> None:
    """Return if there seems to be a store, or none is required; before anything is made.

    Raises:
        UserError: It is away, and `required` is set.
    """
    if config.backend == "none" or not config.required:
        return
    try:
        probe(config.uri)
    except StoreError as error:
        raise missing_store(str(error)) from None


def open_tracker(config: TrackingConfig, folder: Path, run_id: str | None = None) -> Tracker:
    """Return a tracker for the run in `folder`, which may have a record already that is to be continued.

    Args:
        config: Where to record.
        folder: The run's.
        run_id: MLflow's id of the run according to its checkpoint; what the folder says of it comes first.

    Raises:
        UserError: The store cannot be used and `required` is set, or the folder cannot be written.
    """
    record = RunRecord.of(folder) or RunRecord(folder)
    if record.is_copied():
        print(f"{folder} is a copy of {record.name}; it goes on as a run of its own", file=sys.stderr)
        record, run_id = RunRecord(folder), None
        record.run_id = None
    if config.backend == "none":
        return NoTracker(record)
    if run_id is not None and record.run_id is None:
        record.run_id = run_id
    tracker = MLflowTracker(config, record)
    tracker.wait_until_open()
    return tracker
