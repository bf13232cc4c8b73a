"""Where a run is recorded: MLflow, or its own folder only. Chooses the store, and asks whether it is there."""

import logging
import os
from pathlib import Path
from typing import Any, Protocol

from cifar10.config import TrackingConfig
from cifar10.errors import UserError
from cifar10.mlflow_tracker import MLflowTracker

log = logging.getLogger(__name__)

LOCAL_URI = "sqlite:///mlruns/mlflow.db"
_PROBE_SECONDS = 3.0


class Tracker(Protocol):
    """Where a run is recorded."""

    @property
    def run_id(self) -> str | None: ...

    def start(self, parameters: dict[str, Any], tags: dict[str, Any], data: dict[str, str]) -> None: ...
    def log_history(self, history: list[dict[str, float]]) -> None: ...
    def log_scores(self, scores: dict[str, float], step: int) -> None: ...
    def log_file(self, path: Path, folder: str) -> None: ...
    def finish(self, status: str) -> None: ...
    def describe(self) -> str: ...


class NoTracker:
    """Records nothing; the run's folder has it all."""

    run_id: str | None = None

    def start(self, parameters: dict[str, Any], tags: dict[str, Any], data: dict[str, str]) -> None: ...
    def log_history(self, history: list[dict[str, float]]) -> None: ...
    def log_scores(self, scores: dict[str, float], step: int) -> None: ...
    def log_file(self, path: Path, folder: str) -> None: ...
    def finish(self, status: str) -> None: ...
    def describe(self) -> str:
        return "not tracked"


def open_tracker(config: TrackingConfig, run_name: str, run_id: str | None = None) -> Tracker:
    """Return a tracker for a new run, or for the run `run_id` that is to be continued.

    Raises:
        UserError: The store cannot be used and `required` is set.
    """
    if config.backend == "none":
        return NoTracker()
    uri = _usable_uri(config)
    try:
        return MLflowTracker(config, uri, run_name, run_id)
    except Exception as error:  # MLflow raises its own, requests', SQLAlchemy's and OSError
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        if config.required:
            raise UserError(f"MLflow cannot be used at {uri}: {reason}") from error
        log.warning("MLflow cannot be used at %s (%s); training goes on, recorded in its own folder only", uri, reason)
        return NoTracker()


def default_uri() -> str:
    """Return the store to look things up in: MLFLOW_TRACKING_URI, or the local one."""
    return os.environ.get("MLFLOW_TRACKING_URI") or LOCAL_URI


def _usable_uri(config: TrackingConfig) -> str:
    if not config.uri.startswith("http") or _answers(config.uri):
        return config.uri
    if config.required:
        raise UserError(
            f"no MLflow server answers at {config.uri}; start it (docker compose up mlflow), correct tracking.uri, "
            "or let training go on without it: tracking.required=false"
        )
    log.warning("no MLflow server answers at %s; this run is recorded in %s instead", config.uri, LOCAL_URI)
    return LOCAL_URI


def _answers(uri: str) -> bool:
    import requests

    try:
        return requests.get(f"{uri.rstrip('/')}/health", timeout=_PROBE_SECONDS).ok
    except requests.RequestException:
        return False
