"""MLflow's record of a run: written from one thread of its own, so that neither a slow nor a dead store stops training.

What is sent is also in the run's folder (`history.csv`, `scores.json`, figures, checkpoints): a store that goes away
costs a warning, not a result. What it did not take waits, and is sent again with the next epoch and at the end. Epochs
are sent by number, and only those that the store does not have yet. So neither a resumed run nor a store that was away
leaves gaps or doubles.
"""

import getpass
import json
import logging
import os
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cifar10.config import TrackingConfig

log = logging.getLogger(__name__)

_CLOSE_SECONDS = 60.0
_SAMPLING_SECONDS = 10.0  # of system metrics
_PARAMETER_LENGTH = 500  # characters that MLflow keeps at least
_GIVE_UP_AFTER = 2  # failures in a row: the store is away, and trying the rest would only cost time
_KIND_TAG = {"mlflow.experimentKind": "custom_model_development"}  # has its pages show training, not language models
_SQLITE = "sqlite:///"


class MLflowTracker:
    """Sends a run to MLflow, in order, from a thread.

    Args:
        config: Store and experiment.
        uri: The store, known to answer.
        run_name: Shown in the list of runs.
        run_id: The run to continue, if any; a run the store does not know is begun anew.
    """

    def __init__(self, config: TrackingConfig, uri: str, run_name: str, run_id: str | None) -> None:
        _limit_retries()
        from mlflow import MlflowClient

        _quieten()

        self.uri = uri
        self.config = config
        if uri.startswith(_SQLITE):
            Path(uri.removeprefix(_SQLITE)).parent.mkdir(parents=True, exist_ok=True)
        self.client = MlflowClient(tracking_uri=uri)
        self.run_id: str = self._continued(run_id) or self._begun(run_name)
        self._last_step = self._last_logged_step()
        self._jobs: queue.Queue[Callable[[], object] | None] = queue.Queue()
        self._unsent: list[Callable[[], object]] = []
        self._failure: str | None = None
        self._monitor: Any = None
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    def start(self, parameters: dict[str, Any], tags: dict[str, Any], data: dict[str, str]) -> None:
        """Send what is known before the first step: flat parameters, tags, and `data` (name, digest, source)."""
        from mlflow.entities import Dataset, DatasetInput, Param, RunTag

        params = [Param(key, str(value)[:_PARAMETER_LENGTH]) for key, value in parameters.items()]
        tags = {**tags, **_origin(tags.get("git_commit"))}
        run_tags = [RunTag(key, str(value)) for key, value in tags.items() if value is not None]
        dataset = Dataset(data["name"], data["digest"][:32], "local", json.dumps({"source": data["source"]}))
        self._send(lambda: self.client.log_batch(self.run_id, params=params, tags=run_tags))
        self._send(lambda: self.client.log_inputs(self.run_id, [DatasetInput(dataset)]))
        if self.config.system_metrics:
            self._watch_system()

    def log_history(self, history: list[dict[str, float]]) -> None:
        """Send every epoch after the last one sent; `epoch` counts from 0 and is MLflow's step."""
        from mlflow.entities import Metric

        fresh = [entry for entry in history if entry["epoch"] > self._last_step]
        if not fresh:
            return
        now = int(time.time() * 1000)
        metrics = [
            Metric(key, value, now, int(entry["epoch"]))
            for entry in fresh
            for key, value in entry.items()
            if key != "epoch"
        ]
        self._last_step = int(fresh[-1]["epoch"])
        for start in range(0, len(metrics), 1000):  # MLflow takes at most a thousand at once
            batch = metrics[start : start + 1000]
            self._send(lambda batch=batch: self.client.log_batch(self.run_id, metrics=batch))  # type: ignore[misc]

    def log_scores(self, scores: dict[str, float], step: int) -> None:
        """Send final scores."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(key, value, now, step) for key, value in scores.items()]
        self._send(lambda: self.client.log_batch(self.run_id, metrics=metrics))

    def log_file(self, path: Path, folder: str) -> None:
        """Send a file into the run's artifacts."""
        self._send(lambda: self.client.log_artifact(self.run_id, str(path), folder or None))

    def flush(self) -> None:
        """Return once everything has been sent, or tried; after a minute at the latest."""
        done = threading.Event()
        self._send(done.set)
        done.wait(_CLOSE_SECONDS)

    def finish(self, status: str) -> None:
        """Send what waits, close the run as FINISHED, FAILED or KILLED, and say so if something was lost."""
        if self._monitor is not None:
            self._monitor.finish()
        self._send(lambda: self.client.set_terminated(self.run_id, status))
        self._jobs.put(None)
        self._thread.join(_CLOSE_SECONDS)
        if self._thread.is_alive():
            self._failure = f"it did not take everything within {_CLOSE_SECONDS:.0f} s"
        if self._failure:
            log.warning("MLflow's record of this run has gaps: %s. The run's folder is complete.", self._failure)

    def describe(self) -> str:
        """Return the line to type, or the page to open, to see the run."""
        if self.uri.startswith("http"):
            return f"{self.uri} (run {self.run_id})"
        return f"mlflow ui --backend-store-uri {self.uri} (run {self.run_id})"

    def _begun(self, run_name: str) -> str:
        return str(self.client.create_run(self._experiment_id(), run_name=run_name).info.run_id)

    def _experiment_id(self) -> str:
        """Return the experiment's id, and make it if need be; another run may be making it at the same time."""
        from mlflow.exceptions import MlflowException

        name = self.config.experiment
        experiment = self.client.get_experiment_by_name(name)
        if experiment is None:
            place = None if self.uri.startswith("http") else Path(self.config.artifacts).absolute().as_uri()
            try:
                return str(self.client.create_experiment(name, artifact_location=place, tags=_KIND_TAG))
            except MlflowException:
                experiment = self.client.get_experiment_by_name(name)
                if experiment is None:
                    raise
        return str(experiment.experiment_id)

    def _continued(self, run_id: str | None) -> str | None:
        if run_id is None:
            return None
        from mlflow.exceptions import MlflowException

        try:
            self.client.update_run(run_id, status="RUNNING")
        except MlflowException:
            log.warning("MLflow at %s does not know run %s; a new one is begun", self.uri, run_id)
            return None
        return run_id

    def _last_logged_step(self) -> int:
        steps = [metric.step for metric in self.client.get_metric_history(self.run_id, "train/loss")]
        return max(steps, default=-1)

    def _watch_system(self) -> None:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        logging.getLogger("mlflow.system_metrics").setLevel(logging.ERROR)
        monitor = SystemMetricsMonitor(
            self.run_id,
            sampling_interval=_SAMPLING_SECONDS,
            samples_before_logging=1,
            resume_logging=True,
            tracking_uri=self.uri,
        )
        monitor.start()
        self._monitor = monitor

    def _send(self, job: Callable[[], object]) -> None:
        self._jobs.put(job)

    def _work(self) -> None:
        job: Callable[[], object] | None = self._jobs.get()
        while job is not None:
            self._unsent.append(job)
            self._send_unsent()
            job = self._jobs.get()
        while self._unsent and self._send_unsent():
            pass

    def _send_unsent(self) -> int:
        """Try what waits, keep what fails for another time, and return how much was sent.

        Neither order nor repetition matters: MLflow keeps one of equal entries.
        """
        before = len(self._unsent)
        failed: list[Callable[[], object]] = []
        reason = None
        while self._unsent and len(failed) < _GIVE_UP_AFTER:
            job = self._unsent.pop(0)
            try:
                job()
            except Exception as error:  # whatever it is, it must not reach training
                failed.append(job)
                reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        self._unsent += failed
        if reason is not None and self._failure is None:
            log.warning("MLflow at %s does not answer; training goes on: %s", self.uri, reason)
        if reason is None and self._failure is not None:
            log.warning("MLflow at %s answers again, and has been sent what it missed", self.uri)
        self._failure = reason
        return before - len(self._unsent)


def _origin(git_commit: str | None) -> dict[str, str | None]:
    """Return the tags from which MLflow's pages show who ran what."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user need not have a name
        user = None
    return {
        "mlflow.user": user,
        "mlflow.source.name": "commands.py",
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": git_commit,
    }


def _limit_retries() -> None:
    """Keep MLflow from retrying for minutes; must run before its import."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")


def _quieten() -> None:
    """Keep MLflow from telling how it makes its tables; must run after its import, which sets its own levels."""
    for name in ("mlflow", "mlflow.store.db.utils", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
