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
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from cifar10.config.mlflow_uri import absolute_uri, database_path, shown_uri, uri_problem
from cifar10.config.schema import TrackingConfig
from cifar10.errors import first_line
from cifar10.runs.mlflow_places import artifacts_folder, mend_places
from cifar10.runs.record import RunRecord

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

KEY_TAG = "run_key"
"""The tag by which a run is found that was made before its id was known here."""

_PROBE_SECONDS = 3.0
_LOCK_SECONDS = 180.0  # a new database takes some seconds, and several runs may wait for it
_VIEW = "accuracy"
_COLUMNS = (
    "metrics.`test/accuracy`",
    "metrics.`test/accuracy_tta`",
    "metrics.`val/accuracy`",
    "metrics.`wall_seconds`",
    "params.`seed`",
    "params.`training.epochs`",
    "tags.`data`",
    "tags.`model`",
)
_EXPERIMENT_TAGS = {
    "mlflow.experimentKind": "custom_model_development",  # its pages show training, not language models
    # A view of the list of runs, which shows no scores by itself; read from the pages of MLflow 3.17.
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
    """The store cannot be used now. The text says why, in one line, without a password."""


def probe(uri: str) -> None:
    """Return if the store at `uri` seems to take records; quick, and without importing MLflow.

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
    """A store that is open, and the experiment that runs are recorded in.

    Args:
        config: Address of the store, and the experiment, which is made if need be.

    Raises:
        StoreError, or what MLflow, requests, SQLAlchemy or the disk raise.
    """

    def __init__(self, config: TrackingConfig) -> None:
        self.uri = config.uri
        _import_mlflow()
        path = database_path(config.uri)
        artifacts = None if path is None else artifacts_folder(path, config.artifacts)
        with self._alone():
            self.client = connect(config.uri)  # makes the tables of a new database
            if path is not None and artifacts is not None:
                mend_places(path, artifacts, config.experiment)
            self.experiment_id = self._experiment(config.experiment, artifacts)
        self._experiments_of_runs: dict[str, str] = {}  # of runs found; theirs may have been renamed since

    def begin(self, record: RunRecord) -> tuple[str, bool]:
        """Return the id of the run in this store, and whether it was made now. It is made once."""
        with self._alone():
            known = self.find(record)
            if known is not None:
                return known, False
            if record.run_id is not None:
                log.warning("MLflow at %s does not know run %s; a new one is begun", shown_uri(self.uri), record.run_id)
            run = self.client.create_run(
                self.experiment_id,
                start_time=record.started,
                tags={KEY_TAG: record.key},
                run_name=record.folder.name,
            )
            return str(run.info.run_id), True

    def find(self, record: RunRecord) -> str | None:
        """Return the id of the run if the store knows it: by its id, or by its key."""
        from mlflow.exceptions import MlflowException

        if record.run_id is not None:
            try:
                info = self.client.get_run(record.run_id).info
                if info.lifecycle_stage == "active":
                    self._experiments_of_runs[record.run_id] = info.experiment_id
                    return record.run_id
            except MlflowException as error:
                if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    raise
        found = self.client.search_runs(
            [self.experiment_id], filter_string=f"tags.{KEY_TAG} = '{record.key}'", max_results=1
        )
        return str(found[0].info.run_id) if found else None

    def address(self, run_id: str) -> str:
        """Return how to see the run: the page to open, or the line to type and then the page."""
        experiment_id = self._experiments_of_runs.get(run_id, self.experiment_id)
        page = f"/#/experiments/{experiment_id}/runs/{run_id}?workflowType=machine_learning"
        if database_path(self.uri) is None:
            server = os.environ.get("CIFAR10_TRACKING_ADDRESS") or shown_uri(
                self.uri
            )  # as seen from outside a container
            return f"{server.rstrip('/')}{page}"
        program = "mlflow" if shutil.which("mlflow") else f"{shlex.quote(sys.executable)} -m mlflow"
        line = f"{program} ui --backend-store-uri {shlex.quote(self.uri)}"
        return f"{line}, then http://127.0.0.1:5000{page}"

    def _experiment(self, name: str, artifacts: Path | None) -> str:
        """Return the experiment's id, and make it if need be; another program may be making it at the same time."""
        from mlflow.exceptions import MlflowException

        experiment = self.client.get_experiment_by_name(name)
        if experiment is None:
            place = artifacts.as_uri() if artifacts else None
            try:
                return str(self.client.create_experiment(name, artifact_location=place, tags=_EXPERIMENT_TAGS))
            except MlflowException:
                experiment = self.client.get_experiment_by_name(name)
                if experiment is None:
                    raise
        if experiment.lifecycle_stage != "active":
            raise StoreError(
                f"the experiment {name} was deleted in MLflow; bring it back (mlflow experiments restore "
                f"--experiment-id {experiment.experiment_id}) or choose another: tracking.experiment=NAME"
            )
        for key, value in _EXPERIMENT_TAGS.items():
            if key not in experiment.tags:
                self.client.set_experiment_tag(experiment.experiment_id, key, value)
        return str(experiment.experiment_id)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other runs from making tables, experiments or this very run at the same time."""
        path = database_path(self.uri)
        if path is None:
            yield
            return
        try:
            lock = FileLock(f"{path.absolute()}.lock", timeout=_LOCK_SECONDS, mode=0o666)
            lock.acquire()
        except Timeout:
            raise StoreError(f"MLflow's database {path} is being opened by other runs") from None
        try:
            yield
        finally:
            lock.release()


def connect(uri: str) -> "MlflowClient":
    """Return MLflow's client for the store at `uri`."""
    _import_mlflow()
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=absolute_uri(uri))


def _import_mlflow() -> None:
    """Import MLflow, told not to retry for minutes and not to chat."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # read when MLflow is imported
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    import mlflow  # noqa: F401

    # MLflow's import sets levels of its own. What goes wrong is told by whoever asked, in one line.
    for name in ("mlflow", "mlflow.store.db.utils", "alembic", "sqlalchemy", "urllib3.connectionpool"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def connect_for_reading(uri: str) -> None:
    """Return if MLflow can look things up at `uri`; where a SQLite store has moved, its places are mended first.

    Raises:
        StoreError: There is no such store, or it is away.
    """
    problem = uri_problem(uri)
    if problem is not None:
        raise StoreError(f"its address cannot be used: {problem}")
    path = database_path(uri)
    if path is None:
        probe(uri)
    elif not path.is_file():
        raise StoreError(f"there is no database {path} here; go to the project's folder or set MLFLOW_TRACKING_URI")
    connect(uri)
    if path is not None:
        with contextlib.suppress(sqlite3.Error):  # a database that can only be read is good enough
            mend_places(path, artifacts_folder(path))


def _probe_server(uri: str) -> None:
    import requests

    shown = shown_uri(uri)
    try:
        status = requests.get(f"{uri.rstrip('/')}/health", timeout=_PROBE_SECONDS).status_code
    except requests.exceptions.SSLError:  # it answers; MLflow may have been told which certificates to trust
        return
    except requests.Timeout:
        raise StoreError(f"no MLflow server answers at {shown} within {_PROBE_SECONDS:.0f} s") from None
    except requests.ConnectionError as error:
        raise StoreError(f"no MLflow server answers at {shown}{_cause(error)}") from None
    except (requests.RequestException, ValueError) as error:
        raise StoreError(f"no MLflow server answers at {shown}: {reason_of(error)}") from None
    if status >= 500:
        raise StoreError(f"no MLflow server answers at {shown}: HTTP status {status}")


def _cause(error: BaseException) -> str:
    """Return what the operating system says, in brackets, out of the layers that requests wraps around it."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.strerror:
            return f" ({seen.strerror})"
        inner = getattr(seen, "reason", None) or next((x for x in seen.args if isinstance(x, BaseException)), None)
        seen = inner if isinstance(inner, BaseException) else seen.__cause__ or seen.__context__
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
        raise StoreError(f"{path} is no database of MLflow ({error})") from None
