"""Entry point of `sync`: what a run's folder holds -> what MLflow lacks of it -> sent, so that it is recorded once.

Epochs, scores, parameters, tags and files are compared one by one with what MLflow has, and only what is missing is
sent: a run that is complete is not changed.
"""

import sys
from pathlib import Path
from typing import Any

from cifar10.config.mlflow_uri import shown_uri, uri_problem
from cifar10.config.schema import TrackingConfig
from cifar10.errors import UsageError, UserError
from cifar10.runs.known_stores import sync_line, unknown_settings
from cifar10.runs.mlflow_entities import NOTE, data_sets, metrics, note, params, run_tags, send_metrics
from cifar10.runs.mlflow_store import MLflowStore, StoreError, probe, reason_of
from cifar10.runs.recorded_run import Recorded, read_run
from cifar10.suggest import did_you_mean
from cifar10.wording import counted

_EPOCH_METRIC = "train/loss"  # which each epoch has


def sync(name: str | None = None, models_dir: str = "models", tracking_uri: str | None = None) -> None:
    """Send to MLflow what it lacks of the run `name` in `models_dir`, or of all runs there; print a line for each.

    Args:
        name: A run's folder, by its name in `models_dir` or its path.
        models_dir: Where run folders are.
        tracking_uri: Another store than the one that the run was to be recorded in. Without it, that one must be
            known here: a run's folder may be a stranger's.

    Raises:
        UserError: There is no such run, it is still running, or the store is away.
    """
    if name is not None:
        print(synced(run_folder(name, models_dir), tracking_uri), flush=True)
        return
    folders = sorted(file.parent for file in Path(models_dir).glob("*/config.yaml"))
    if not folders:
        raise UsageError(f"there is no run in {models_dir}/; name another folder with --models_dir=DIR")
    failures = 0
    for folder in folders:
        try:
            print(synced(folder, tracking_uri), flush=True)
        except UserError as error:
            failures += 1
            print(error, file=sys.stderr)
    if failures:
        raise UserError(f"{failures} of {len(folders)} runs could not be recorded")


def synced(folder: Path, tracking_uri: str | None = None) -> str:
    """Send what MLflow lacks of the run in `folder`, and return a line that says what that was."""
    recorded = read_run(folder)
    config = _store_of(folder, recorded.tracking, tracking_uri)
    if recorded.record.is_running():
        raise UserError(f"{folder.name} is still running, and its own process records it; end it first")
    try:
        probe(config.uri)
        store = MLflowStore(config)
        run_id, _ = store.begin(recorded.record)
        sent = complete(store, run_id, recorded)
    except StoreError as error:
        raise UserError(f"{folder.name} was not recorded: {error}") from None
    except UserError:
        raise
    except Exception as error:  # MLflow raises its own, requests', SQLAlchemy's and OSError
        reason = f"MLflow at {shown_uri(config.uri)} did not take it: {reason_of(error)}"
        raise UserError(f"{folder.name} was not recorded whole: {reason}; the same line goes on with it") from error
    if recorded.record.run_id != run_id:
        recorded.record.run_id = run_id
    told = f"recorded {', '.join(sent)}" if sent else "is complete, nothing was sent"
    return f"{folder.name}: {told}; see {store.address(run_id)}"


def _store_of(folder: Path, tracking: TrackingConfig, tracking_uri: str | None) -> TrackingConfig:
    """Return `tracking` with the store to use.

    Raises:
        UsageError: `tracking_uri` is no address, or there is none and that of the run is not known here.
    """
    if tracking_uri is not None:
        problem = uri_problem(tracking_uri)
        if problem is not None:
            raise UsageError(f"--tracking_uri: {problem}")
        typed = tracking.model_copy(update={"uri": tracking_uri})
        return typed.model_copy(update={"artifacts": None}) if unknown_settings(typed) else typed
    unknown = unknown_settings(tracking)
    if unknown:
        told = " and ".join(f"{key}={shown_uri(value)}" for key, value in unknown.items())
        raise UsageError(
            f"{folder.name} says {told}, which is not configured here; if that store is yours: "
            f"{sync_line(folder, tracking)}\nelse name the store to record it in with --tracking_uri=URI"
        )
    return tracking


def run_folder(name: str, models_dir: str) -> Path:
    """Return the folder of the run that is called `name`.

    Raises:
        UsageError: There is none.
    """
    for folder in (Path(models_dir) / name, Path(name)):
        if (folder / "config.yaml").is_file():
            return folder
    runs = sorted(file.parent.name for file in Path(models_dir).glob("*/config.yaml"))
    listed = f", which holds: {', '.join(runs[-8:])}" if runs else ", which holds none"
    raise UsageError(f"there is no run {name} in {models_dir}/{did_you_mean(name, runs) or listed}")


def complete(store: MLflowStore, run_id: str, recorded: Recorded) -> list[str]:
    """Send what the run `run_id` lacks, and return in words what that was."""
    run = store.client.get_run(run_id)
    _refuse_older_copy(store, run, recorded)
    sent = [
        *_send_parameters(store, run, recorded),
        *_send_metrics(store, run, recorded),
        *_send_files(store, run, recorded),
    ]
    record, info = recorded.record, run.info
    other_end = info.end_time is None or (bool(record.process) and info.end_time != record.ended)  # else it is a guess
    if info.status != record.status or other_end:
        store.client.set_terminated(run_id, record.status, record.ended)
        sent.append(f"its end as {record.status}")
    return sent


def _refuse_older_copy(store: MLflowStore, run: Any, recorded: Recorded) -> None:
    """Refuse to change the record of a run that went on elsewhere after its folder was copied."""
    folder, num_epochs = recorded.record.folder, len(recorded.history)
    steps = {metric.step for metric in store.client.get_metric_history(run.info.run_id, _EPOCH_METRIC)}
    if len(steps) > num_epochs or (run.info.status == "FINISHED" and not recorded.scores):
        known = counted(len(steps), "epoch")
        raise UserError(
            f"{folder.name}: MLflow has {known} of it ({run.info.status}), {folder} has {num_epochs}: an older copy of "
            "the run; nothing was sent"
        )


def _send_parameters(store: MLflowStore, run: Any, recorded: Recorded) -> list[str]:
    new = {key: value for key, value in recorded.parameters.items() if key not in run.data.params}
    tags = {key: value for key, value in recorded.tags.items() if key not in run.data.tags}
    if (
        run.data.tags.get(NOTE) == note(recorded.record.tags, {}) != recorded.tags[NOTE]
    ):  # else a user may have written it
        tags[NOTE] = recorded.tags[NOTE]
    if new or tags:
        store.client.log_batch(run.info.run_id, params=params(new), tags=run_tags(tags))
    told = [counted(len(new), "parameter")] * bool(new) + [counted(len(tags), "tag")] * bool(tags)
    if recorded.record.data and not (run.inputs and run.inputs.dataset_inputs):
        store.client.log_inputs(run.info.run_id, data_sets(recorded.record.data))
        told.append("the data set")
    return told


def _send_metrics(store: MLflowStore, run: Any, recorded: Recorded) -> list[str]:
    last = max((int(entry["epoch"]) for entry in recorded.history), default=0)
    known = {
        key: {metric.step for metric in store.client.get_metric_history(run.info.run_id, key)}
        for key in run.data.metrics
        if key in recorded.scores or any(key in entry for entry in recorded.history)
    }

    def missing(scores: dict[str, float], step: int) -> dict[str, float]:
        return {key: value for key, value in scores.items() if step not in known.get(key, ())}

    entries, epochs, timestamp = [], 0, float(recorded.record.started)
    for entry in recorded.history:
        timestamp += 1000 * entry.get("seconds", 0.0)  # about when the epoch ended
        epoch = int(entry["epoch"])
        fresh = missing({key: value for key, value in entry.items() if key != "epoch"}, epoch)
        entries += metrics(fresh, int(timestamp), epoch)
        epochs += bool(fresh)
    final = missing({k: v for k, v in recorded.scores.items() if not any(k in e for e in recorded.history)}, last)
    entries += metrics(final, recorded.record.ended or int(timestamp), last)
    send_metrics(store.client, run.info.run_id, entries)
    return [counted(epochs, "epoch")] * bool(epochs) + [counted(len(final), "score")] * bool(final)


def _send_files(store: MLflowStore, run: Any, recorded: Recorded) -> list[str]:
    sizes = {
        item.path: item.file_size
        for place in sorted(set(recorded.files.values()))
        for item in store.client.list_artifacts(run.info.run_id, place or None)
    }
    new = [
        (path, place)
        for path, place in recorded.files.items()
        if sizes.get(f"{place}/{path.name}".lstrip("/")) != path.stat().st_size
    ]
    for path, place in new:
        store.client.log_artifact(run.info.run_id, str(path), place or None)
    return [counted(len(new), "file")] * bool(new)
