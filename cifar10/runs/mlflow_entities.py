"""Convert a run to MLflow's entities: parameters, tags, data set, metrics, files and a description."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cifar10.config.mlflow_uri import shown_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, Metric, Param, RunTag

NOTE = "mlflow.note.content"
"""The tag that MLflow's pages show as the description of a run."""

_PARAMETER_LENGTH = 500  # characters that MLflow keeps at least
_METRICS_AT_ONCE = 1000  # as many as MLflow takes


def parameters_of(config: Mapping[str, Any]) -> dict[str, str]:
    """Return a configuration as MLflow keeps it: dotted keys, and text that is not too long."""
    return {key: shown_uri(str(value))[:_PARAMETER_LENGTH] for key, value in _flatten(config).items()}


def params(parameters: Mapping[str, str]) -> "list[Param]":
    from mlflow.entities import Param

    return [Param(key, value) for key, value in parameters.items()]


def run_tags(tags: Mapping[str, str]) -> "list[RunTag]":
    from mlflow.entities import RunTag

    return [RunTag(key, value) for key, value in tags.items()]


def data_sets(data: Mapping[str, str]) -> "list[DatasetInput]":
    """Return the data set of a run: its `name`, `digest` and `source`."""
    from mlflow.entities import Dataset, DatasetInput

    source = json.dumps({"source": data["source"]})
    return [DatasetInput(Dataset(data["name"], data["digest"][:32], "local", source))]


def metrics(scores: Mapping[str, float | None], timestamp: int, step: int) -> "list[Metric]":
    """Return scores as MLflow's metrics, which its pages show in this order; what is no number is left out."""
    from mlflow.entities import Metric

    ordered = sorted(scores, key=_rank)
    return [Metric(key, value, timestamp, step) for key in ordered if (value := scores[key]) is not None]


def _rank(name: str) -> tuple[bool, bool]:
    """Return the place of a score: accuracy first, the count of steps last."""
    return name == "step", "accuracy" not in name


def send_metrics(client: "MlflowClient", run_id: str, entries: "list[Metric]") -> None:
    """Send metrics, as many at once as MLflow takes. It keeps one of equal entries."""
    for start in range(0, len(entries), _METRICS_AT_ONCE):
        client.log_batch(run_id, metrics=entries[start : start + _METRICS_AT_ONCE])


def note(tags: Mapping[str, str], scores: Mapping[str, float]) -> str:
    """Return a run in words, for the top of its page."""
    what = f"{tags.get('model', 'A network')} on {tags.get('data', 'its data')}"
    if "test/accuracy" not in scores:
        return what
    plain = scores["test/accuracy"]
    augmented = scores.get("test/accuracy_tta")
    if augmented is None:
        return f"Test accuracy {plain:.2%}: {what}"
    return f"Test accuracy {augmented:.2%}, {plain:.2%} without test-time augmentation: {what}"


def send_file(client: "MlflowClient", run_id: str, path: Path, folder: str) -> None:
    client.log_artifact(run_id, str(path), folder or None)


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested dicts as one, keys joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        flat |= _flatten(value, f"{path}.") if isinstance(value, dict) else {path: value}
    return flat
