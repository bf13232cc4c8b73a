"""An MLflow store: availability, its experiment and its runs.

The store is probed before MLflow is imported or a record is sent, because MLflow itself would retry for minutes.
"""

import contextlib
import json
import logging
import os
import shlex
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from cifar10.config.mlflow_uri import absolute_uri, database_path, shown_uri, uri_problem
from cifar10.config.schema import TrackingConfig
from cifar10.errors import first_line
from cifar10.runs.mlflow_entities import KEY_TAG
from cifar10.runs.mlflow_places import artifacts_folder, mend_places
from cifar10.runs.record import RunRecord

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

log = logging.getLogger(__name__)

_PROBE_SECONDS = 3.0
_LOCK_SECONDS = 180.0  # a new database takes some seconds, and several runs may wait for it
_METRICS_AT_ONCE = 1000  # MLflow's limit
_VIEW = "accuracy"
_COLUMNS = (
    *(f"metrics.`{key}`" for key in ("test/accuracy", "test/accuracy_tta", "val/accuracy", "wall_seconds")),
    *(f"params.`{key}`" for key in ("seed", "training.epochs")),
    *(f"tags.`{key}`" for key in ("data", "model")),
)
_EXPERIMENT_TAGS = {
    "mlflow.experimentKind": "custom_model_development",  # MLflow shows its view for training, not for language models
    # A view of the list of runs with scores, which the default view lacks; as MLflow 3.17 writes it.
    f"mlflow.sharedViewState.{_VIEW}": json.dumps(
        {
            "searchFilter": "",
            "orderByKey": "attributes.start_time",
            "orderByAsc": False,
            "startTime": "ALL",
            "lifecycleFilter": "Active",
            "modelVersionFilter": "All Runs",
            "datasetsFilter": [],
            "selectedColumns": _COLUMNS,
        }
    ),
}


class StoreError(Exception):
    """The store cannot be used now. The message is one line, without a password."""


class AbsentStoreError(StoreError):
    """There is no database yet."""


def probe(uri: str) -> None:
    """Check that the store at `uri` accepts records; quick, and without importing MLflow.

    Raises:
        StoreError: It does not, within three seconds.
    """
    path = database_path(uri)
    if path is None:
        _probe_server(uri)
    else:
        _probe_database(path)


def reason_of(error: BaseException) -> str:
    """Return the first line of the message of `error`, without a password, cut at 300 characters."""
    return shown_uri(first_line(error))[:300]


class MLflowStore:
    """An open store, and a run in it.

    Args:
        config: Address of the store and name of the experiment, which is created if necessary.
        record: The run. It is created, once, if the store does not know it.

    Raises:
        StoreError, or what MLflow, requests, SQLAlchemy or the disk raise.
    """

    def __init__(self, config: TrackingConfig, record: RunRecord) -> None:
        self.uri = config.uri
        _import_mlflow()
        path, artifacts = database_path(config.uri), None
        with locked(config.uri):
            self.client = connect(config.uri)  # creates the tables of a new database
            if path is not None:
                artifacts = artifacts_folder(path, config.artifacts)
                mend_places(path, artifacts, config.experiment)
            self.experiment_id = find_experiment(self.client, config.experiment, artifacts)
            known = self._find(record)
            info = (known or self._create(record)).info
        self.is_new = known is None
        """Whether the run was created now."""
        self.run_id, self.experiment_id = str(info.run_id), str(info.experiment_id)

    def steps(self, key: str) -> set[int]:
        """Return the steps at which the metric `key` is recorded."""
        return {metric.step for metric in self.client.get_metric_history(self.run_id, key)}

    def send(
        self,
        metrics: "Sequence[Metric]" = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Send metrics, parameters and tags. MLflow keeps one of equal metrics."""
        from mlflow.entities import Param, RunTag

        for start in range(0, len(metrics), _METRICS_AT_ONCE):
            self.client.log_batch(self.run_id, metrics=metrics[start : start + _METRICS_AT_ONCE])
        if params or tags:
            new = [Param(*item) for item in (params or {}).items()]
            self.client.log_batch(self.run_id, params=new, tags=[RunTag(*item) for item in (tags or {}).items()])

    def send_file(self, path: Path, folder: str) -> None:
        """Send a file into `folder` of the run's artifacts."""
        self.client.log_artifact(self.run_id, str(path), folder or None)

    def address(self) -> str:
        """Return how to see the run: the page to open, or the line to type and then the page."""
        page = f"/#/experiments/{self.experiment_id}/runs/{self.run_id}?workflowType=machine_learning"
        if database_path(self.uri) is None:
            outside = os.environ.get("CIFAR10_TRACKING_ADDRESS")  # the address outside a container
            return f"{(outside or shown_uri(self.uri)).rstrip('/')}{page}"
        program = "mlflow" if shutil.which("mlflow") else f"{shlex.quote(sys.executable)} -m mlflow"
        line = f"{program} ui --backend-store-uri {shlex.quote(self.uri)}"
        return f"{line}, then http://127.0.0.1:5000{page}"

    def _find(self, record: RunRecord) -> "Run | None":
        """Return the run by its id, or by its key; None if the store does not know it."""
        from mlflow.exceptions import MlflowException

        if record.run_id is not None:
            try:
                run = self.client.get_run(record.run_id)
                if run.info.lifecycle_stage == "active":
                    return run
            except MlflowException as error:
                if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    raise
        by_key = f"tags.{KEY_TAG} = '{record.key}'"
        return next(iter(self.client.search_runs([self.experiment_id], filter_string=by_key, max_results=1)), None)

    def _create(self, record: RunRecord) -> "Run":
        if record.run_id is not None:
            log.warning("MLflow at %s does not know run %s; a new one is created", shown_uri(self.uri), record.run_id)
        return self.client.create_run(
            self.experiment_id, start_time=record.started, tags={KEY_TAG: record.key}, run_name=record.folder.name
        )


def find_experiment(client: "MlflowClient", name: str, artifacts: Path | None) -> str:
    """Return the experiment's id; create it if necessary, although another program may do so at the same time.

    `artifacts` is the folder for files of a new one; None: the server's own.
    """
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        place = artifacts.as_uri() if artifacts else None
        try:
            return str(client.create_experiment(name, artifact_location=place, tags=_EXPERIMENT_TAGS))
        except MlflowException:
            experiment = client.get_experiment_by_name(name)
            if experiment is None:
                raise
    if experiment.lifecycle_stage != "active":
        raise StoreError(
            f"the experiment {name} was deleted in MLflow; restore it (mlflow experiments restore "
            f"--experiment-id {experiment.experiment_id}) or choose another: tracking.experiment=NAME"
        )
    for key, value in _EXPERIMENT_TAGS.items():
        if key not in experiment.tags:
            client.set_experiment_tag(experiment.experiment_id, key, value)
    return str(experiment.experiment_id)


@contextmanager
def locked(uri: str) -> Iterator[None]:
    """Keep other runs from creating tables, experiments or runs in a SQLite store at the same time."""
    path = database_path(uri)
    if path is None:
        yield
        return
    try:
        with FileLock(f"{path.absolute()}.lock", timeout=_LOCK_SECONDS, mode=0o666):
            yield
    except Timeout:
        raise StoreError(f"MLflow's database {path} is being opened by other runs") from None


def connect(uri: str) -> "MlflowClient":
    """Return MLflow's client for the store at `uri`."""
    _import_mlflow()
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=absolute_uri(uri))


@contextlib.contextmanager
def using_store(uri: str) -> Iterator[None]:
    """Let functions of MLflow that take no address use the store at `uri`, an absolute one.

    MLflow also writes it into the environment, where a later training would find it, so that is restored.
    """
    import mlflow

    names = ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME")
    before = {name: os.environ.get(name) for name in names}
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(None)  # type: ignore[arg-type]  # MLflow's own way to forget it
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _import_mlflow() -> None:
    """Import MLflow, with few retries and without its own messages."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # read when MLflow is imported
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import mlflow  # noqa: F401

    # MLflow's import sets levels of its own. The caller reports errors, in one line.
    for name in ("mlflow", "mlflow.store.db.utils", "alembic", "sqlalchemy", "urllib3.connectionpool"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def connect_for_reading(uri: str) -> None:
    """Check that MLflow can read from `uri`; correct the artifact locations of a SQLite store that has moved.

    Raises:
        AbsentStoreError: There is no such file.
        StoreError: The store is unavailable.
    """
    if (problem := uri_problem(uri)) is not None:
        raise StoreError(f"its address cannot be used: {problem}")
    path = database_path(uri)
    if path is None:
        probe(uri)
    elif not path.is_file():
        raise AbsentStoreError(
            f"there is no database {path} here; go to the project's folder or set MLFLOW_TRACKING_URI"
        )
    connect(uri)
    if path is not None:
        with contextlib.suppress(sqlite3.Error):  # a database that can only be read is good enough
            mend_places(path, artifacts_folder(path))


def _probe_server(uri: str) -> None:
    import requests

    try:
        status = requests.get(f"{uri.rstrip('/')}/health", timeout=_PROBE_SECONDS).status_code
    except requests.exceptions.SSLError:  # it responds; MLflow may have other certificates
        return
    except requests.Timeout:
        reason = f" within {_PROBE_SECONDS:.0f} s"
    except requests.ConnectionError as error:
        reason = _cause(error)
    except (requests.RequestException, ValueError) as error:
        reason = f": {reason_of(error)}"
    else:
        if status < 500:
            return
        reason = f": HTTP status {status}"
    raise StoreError(f"no MLflow server responds at {shown_uri(uri)}{reason}")


def _cause(error: BaseException) -> str:
    """Return the operating system's message, in brackets, from the exceptions that requests raises from it."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.strerror:
            return f" ({seen.strerror})"
        seen = seen.__cause__ or seen.__context__
    return ""


def _probe_database(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):  # SQLite's journal is beside its file
            pass
    except OSError as error:
        raise StoreError(f"{path.parent} cannot be written ({error.strerror})") from None
    if not path.exists():
        return
    try:
        address = f"{path.absolute().as_uri()}?mode=rw"
        with closing(sqlite3.connect(address, uri=True, timeout=_PROBE_SECONDS, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise StoreError(f"MLflow's database {path} is locked by another program") from None
        raise StoreError(f"MLflow's database {path} cannot be written ({error})") from None
    except sqlite3.Error as error:
        raise StoreError(f"{path} is not a database of MLflow ({error})") from None
