"""Read a run from MLflow: what is left of one whose folder is not on this machine."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from cifar10.config.mlflow_uri import default_uri, shown_uri
from cifar10.errors import UserError
from cifar10.runs.mlflow_store import StoreError, connect, connect_for_reading, reason_of

_EPOCH_METRICS = ("train/", "val/")


@dataclass(frozen=True)
class TrackedRun:
    """A run as MLflow has recorded it."""

    name: str
    parameters: dict[str, str]
    """Settings by their dotted keys; MLflow cuts long values."""
    tags: dict[str, str]
    history: list[dict[str, float]]
    """The scores of each epoch, with its number, from 0, as `epoch`."""
    scores: dict[str, float]
    """The last value of each metric."""


def read_tracked_run(run_id: str) -> TrackedRun:
    """Return the run of this id in the store of MLFLOW_TRACKING_URI, or the local one.

    Raises:
        UserError: The store is unavailable, or does not know the run.
    """
    store = default_uri()
    try:
        connect_for_reading(store)
    except StoreError as error:
        raise UserError(f"run {run_id} is to come from MLflow, but {error}") from None
    try:
        client = connect(store)
        run = client.get_run(run_id)
        names = [name for name in run.data.metrics if name.startswith(_EPOCH_METRICS)]
        histories = {name: client.get_metric_history(run_id, name) for name in names}
    except Exception as error:  # MLflow raises its own, requests', SQLAlchemy's and OSError
        raise UserError(f"MLflow has no run {run_id} at {shown_uri(store)}: {reason_of(error)}") from None
    return TrackedRun(
        name=str(run.info.run_name or run_id),
        parameters=dict(run.data.params),
        tags=dict(run.data.tags),
        history=_by_epoch(histories),
        scores={name: float(value) for name, value in run.data.metrics.items()},
    )


def _by_epoch(histories: dict[str, list[Any]]) -> list[dict[str, float]]:
    epochs: dict[int, dict[str, float]] = defaultdict(dict)
    for name, values in histories.items():
        for value in values:
            epochs[int(value.step)][name] = float(value.value)
    return [{"epoch": epoch, **epochs[epoch]} for epoch in sorted(epochs)]
