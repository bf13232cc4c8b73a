"""Runs to compare: those in the folder of models, and those that MLflow knows. Needs no PyTorch."""

import csv
import json
import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import streamlit as st
import yaml

from cifar10.config.mlflow_uri import database_path, default_uri
from cifar10.config.schema import flatten
from cifar10.errors import UserError
from cifar10.files import read_text
from cifar10.runs.folder import CONFIG, HISTORY, SCORES, read_settings
from cifar10.runs.mlflow_store import StoreError, connect, connect_for_reading, reason_of
from cifar10.runs.record import RunRecord
from cifar10.runs.recorded_run import read_history
from cifar10.runs.tracked_run import read_tracked_run

_MOST_TRACKED = 500
_FRESH_SECONDS = 20
_LARGEST = 8 * 2**20  # bytes of a file of a run that is read


@dataclass(frozen=True)
class ListedRun:
    """A run, as far as its files or MLflow's record say."""

    name: str
    run_id: str | None
    """MLflow's, if it has one."""
    folder: Path | None
    """None: only MLflow knows it."""
    settings: dict[str, Any]
    """By their dotted keys."""
    tags: dict[str, str]
    scores: dict[str, float]
    started: float | None
    """Seconds since 1970."""
    is_tracked: bool = False
    """Whether MLflow knows it."""

    @property
    def data(self) -> str:
        """Name of the data set; empty if it is not known."""
        return self.tags.get("data") or _last_part(self.settings.get("data_loading._target_"))

    @property
    def network(self) -> str:
        """Name of the network; empty if it is not known."""
        return self.tags.get("model") or _last_part(self.settings.get("model._target_"))

    @property
    def optimizer(self) -> str:
        """Name of the optimizer; empty if it is not known."""
        return _last_part(self.settings.get("optimizer._target_"))


@dataclass(frozen=True)
class Tracked:
    """The runs that MLflow knows."""

    runs: tuple[ListedRun, ...] = ()
    problem: str = ""
    """Why there are none; empty if MLflow can be read, or has never been used here."""


def runs_in(models_dir: Path) -> list[ListedRun]:
    """Return the runs in a folder; those whose files cannot be read have no scores."""
    try:
        folders = sorted(file.parent for file in models_dir.glob(f"*/{CONFIG}"))
    except OSError:
        return []
    return [read_folder(folder) for folder in folders]


def read_folder(folder: Path) -> ListedRun:
    """Return what the files of a run folder say."""
    record = RunRecord.of(folder)
    settings: dict[str, Any] = {}
    with suppress(OSError, ValueError, TypeError, RecursionError, yaml.YAMLError):
        if (folder / CONFIG).stat().st_size <= _LARGEST:
            settings = flatten(read_settings(folder))
    return ListedRun(
        name=folder.name,
        run_id=None if record is None else record.run_id,
        folder=folder,
        settings=settings,
        tags={} if record is None else record.tags,
        scores=dict(_numbers(read_json(folder / SCORES))),
        started=None if record is None else record.started / 1000,
    )


def read_json(file: Path) -> dict[str, Any]:
    """Return the content of a JSON file; empty if it is not there or cannot be read."""
    with suppress(OSError, ValueError, RecursionError):
        if file.stat().st_size <= _LARGEST:
            content = json.loads(read_text(file))
            return content if isinstance(content, dict) else {}
    return {}


@st.cache_resource(ttl=_FRESH_SECONDS, max_entries=2, show_spinner=False)
def tracked_runs(uri: str) -> Tracked:
    """Return the newest runs in the store at `uri`, or why it cannot be read; cached for 20 s."""
    path = database_path(uri)
    if path is not None and not path.is_file():
        return Tracked()
    try:
        connect_for_reading(uri)
        client = connect(uri)
        experiments = [each.experiment_id for each in client.search_experiments()]
        order = ["attributes.start_time DESC"]
        found = client.search_runs(experiments, max_results=_MOST_TRACKED, order_by=order) if experiments else []
    except StoreError as error:
        return Tracked(problem=str(error))
    except Exception as error:  # MLflow raises its own, requests', SQLAlchemy's and OSError
        return Tracked(problem=reason_of(error))
    return Tracked(tuple(map(_of_mlflow, found)))


def all_runs(models_dir: Path) -> tuple[list[ListedRun], str]:
    """Return all runs, each once, the newest first, and why MLflow's are missing; empty if they are not."""
    tracked = tracked_runs(default_uri())
    known = {run.run_id for run in tracked.runs}
    local = [_tracked(run) if run.run_id in known else run for run in runs_in(models_dir)]
    ids = {run.run_id for run in local if run.run_id is not None}
    merged = [*local, *(run for run in tracked.runs if run.run_id not in ids)]
    return sorted(merged, key=lambda run: -(run.started or 0)), tracked.problem


def history_of(run: ListedRun) -> list[dict[str, float]]:
    """Return the scores of each epoch, with its number as `epoch`; none if they cannot be read."""
    if run.folder is not None:
        with suppress(OSError, ValueError, csv.Error):
            if history := read_history(run.folder / HISTORY):
                return history
    return _tracked_history(default_uri(), run.run_id) if run.is_tracked and run.run_id else []


@st.cache_resource(ttl=_FRESH_SECONDS, max_entries=50, show_spinner=False)
def _tracked_history(uri: str, run_id: str) -> list[dict[str, float]]:
    try:
        return read_tracked_run(run_id).history
    except UserError:
        return []


def _tracked(run: ListedRun) -> ListedRun:
    return replace(run, is_tracked=True)


def _of_mlflow(run: Any) -> ListedRun:
    started = run.info.start_time
    return ListedRun(
        name=str(run.info.run_name or run.info.run_id),
        run_id=str(run.info.run_id),
        folder=None,
        settings=dict(run.data.params),
        tags=dict(run.data.tags),
        scores=dict(_numbers(run.data.metrics)),
        started=None if started is None else started / 1000,
        is_tracked=True,
    )


def _numbers(values: dict[str, Any]) -> Iterator[tuple[str, float]]:
    for key, value in values.items():
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            yield key, float(value)


def _last_part(target: Any) -> str:
    return str(target or "").rpartition(".")[2]
