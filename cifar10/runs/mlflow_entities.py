"""Convert a run to MLflow's entities: parameters, tags, data set, metrics and a description."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cifar10.config.mlflow_uri import shown_uri
from cifar10.config.schema import flatten
from cifar10.runs.record import RunRecord

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput, Metric

KEY_TAG = "run_key"
"""The tag with the key of `run.json`, by which a run is found whose id is not known."""

NOTE = "mlflow.note.content"
"""The tag that MLflow's pages show as the description of a run."""

EPOCH_METRIC = "train/loss"
"""A metric of every epoch."""

_PARAMETER_LENGTH = 500  # characters that MLflow keeps at least


def parameters_of(config: dict[str, Any]) -> dict[str, str]:
    """Return a configuration as MLflow keeps it: dotted keys, and text that is not too long."""
    return {key: shown_uri(str(value))[:_PARAMETER_LENGTH] for key, value in flatten(config).items() if value != {}}


def tags_of(record: RunRecord, scores: Mapping[str, float]) -> dict[str, str]:
    """Return all tags of a run, its key and its description included."""
    return {**record.tags, KEY_TAG: record.key, NOTE: note(record.tags, scores)}


def code_and_data_tags(metadata: Mapping[str, Any], model: str) -> dict[str, Any]:
    """Return tags for code, data, versions and model, from the metadata of a checkpoint and the network's target."""
    keys = ("git_commit", "git_dirty", "code_digest", "data_digest", "precision", "program")
    return {
        **{key: metadata[key] for key in keys},
        **{f"version.{name}": number for name, number in metadata["versions"].items()},
        "data": metadata["data_name"],
        "model": model.rpartition(".")[2],
    }


def data_sets(data: Mapping[str, str]) -> "list[DatasetInput]":
    """Return the data set of a run: its `name`, `digest` and `source`."""
    from mlflow.entities import Dataset, DatasetInput

    source = json.dumps({"source": data["source"]})
    return [DatasetInput(Dataset(data["name"], data["digest"][:32], "local", source))]


def metrics(scores: Mapping[str, float | None], timestamp: int, step: int) -> "list[Metric]":
    """Return scores as metrics, which MLflow's pages show in this order; `epoch` and missing values are left out."""
    from mlflow.entities import Metric

    ordered = sorted(scores, key=lambda name: (name == "step", "accuracy" not in name))
    known = {key: value for key in ordered if key != "epoch" and (value := scores[key]) is not None}
    return [Metric(key, value, timestamp, step) for key, value in known.items()]


def note(tags: Mapping[str, str], scores: Mapping[str, float]) -> str:
    """Return the description of a run, for the top of its page."""
    what = f"{tags.get('model', 'A network')} on {tags.get('data', 'its data')}"
    if "test/accuracy" not in scores:
        return what
    plain = scores["test/accuracy"]
    augmented = scores.get("test/accuracy_tta")
    if augmented is None:
        return f"Test accuracy {plain:.2%}: {what}"
    return f"Test accuracy {augmented:.2%}, {plain:.2%} without test-time augmentation: {what}"
