"""Entry point of `sync`: compare run folders with MLflow, and send what MLflow lacks.

Epochs, scores, parameters, tags and files are compared one by one. A complete run is not changed.
"""

import sys
from pathlib import Path
from typing import Any

from cifar10.config.mlflow_uri import shown_uri, uri_problem
from cifar10.config.schema import TrackingConfig
from cifar10.data.class_names import few
from cifar10.errors import UsageError, UserError
from cifar10.runs.known_stores import sync_line, unknown_settings
from cifar10.runs.mlflow_entities import EPOCH_METRIC, NOTE, data_sets, metrics, note, tags_of
from cifar10.runs.mlflow_store import MLflowStore, StoreError, probe, reason_of
from cifar10.runs.recorded_run import Recorded, read_run
from cifar10.suggest import did_you_mean
from cifar10.wording import counted


def sync(name: str | None = None, models_dir: str = "models", tracking_uri: str | None = None) -> None:
    """Send to MLflow what it lacks of the run `name` in `models_dir`, or of all runs there; print a line for each.

    Args:
        name: A run's folder, by its name in `models_dir` or its path.
        models_dir: The folder of run folders.
        tracking_uri: Store to use instead of the run's own. The run's own store must be configured here, because the
            folder may come from a stranger.

    Raises:
        UserError: There is no such run, it is still running, or the store is unavailable.
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
    """Send what MLflow lacks of the run in `folder`, and return a line that lists it."""
    recorded = read_run(folder)
    config = _store_of(folder, recorded.tracking, tracking_uri)
    if recorded.record.is_running():
        raise UserError(f"{folder.name} is still running, and its own process records it; end it first")
    try:
        probe(config.uri)
        store = MLflowStore(config, recorded.record)
        sent = complete(store, recorded)
    except StoreError as error:
        raise UserError(f"{folder.name} was not recorded: {error}") from None
    except UserError:
        raise
    except Exception as error:  # MLflow raises its own, requests', SQLAlchemy's and OSError
        reason = f"MLflow at {shown_uri(config.uri)} did not accept it: {reason_of(error)}"
        raise UserError(f"{folder.name} was not recorded completely: {reason}; the same line continues it") from error
    if recorded.record.run_id != store.run_id:
        recorded.record.run_id = store.run_id
    result = f"recorded {', '.join(sent)}" if sent else "its record was complete, nothing was sent"
    return f"{folder.name}: {result}; see {store.address()}"


def _store_of(folder: Path, tracking: TrackingConfig, tracking_uri: str | None) -> TrackingConfig:
    """Return `tracking` with the store to use; refuse one that is neither in `tracking_uri` nor configured here."""
    if tracking_uri is not None:
        if (problem := uri_problem(tracking_uri)) is not None:
            raise UsageError(f"--tracking_uri: {problem}")
        typed = tracking.model_copy(update={"uri": tracking_uri})
        return typed.model_copy(update={"artifacts": None}) if unknown_settings(typed) else typed
    if unknown := unknown_settings(tracking):
        settings = " and ".join(f"{key}={shown_uri(value)}" for key, value in unknown.items())
        raise UsageError(
            f"{folder.name} sets {settings}, which is not configured here; if that store is yours: "
            f"{sync_line(folder, tracking)}\nelse set the store to record it in with --tracking_uri=URI"
        )
    return tracking


def run_folder(name: str, models_dir: str) -> Path:
    """Return the folder of the run `name`.

    Raises:
        UsageError: There is none.
    """
    for folder in (Path(models_dir) / name, Path(name)):
        if (folder / "config.yaml").is_file():
            return folder
    runs = sorted(file.parent.name for file in Path(models_dir).glob("*/config.yaml"))
    listed = f", which holds: {few(runs)}" if runs else ", which holds none"
    raise UsageError(f"there is no run {name} in {models_dir}/{did_you_mean(name, runs) or listed}")


def complete(store: MLflowStore, recorded: Recorded) -> list[str]:
    """Send what the run in `store` lacks, and return in words what that was."""
    run = store.client.get_run(store.run_id)
    _refuse_older_copy(store, run, recorded)
    sent = _send_parameters(store, run, recorded) + _send_metrics(store, run, recorded) + _send_files(store, recorded)
    record, info = recorded.record, run.info
    other_end = info.end_time is None or (bool(record.process) and info.end_time != record.ended)  # else it is a guess
    if info.status != record.status or other_end:
        store.client.set_terminated(store.run_id, record.status, record.ended)
        sent.append(f"its end as {record.status}")
    return sent


def _refuse_older_copy(store: MLflowStore, run: Any, recorded: Recorded) -> None:
    """Refuse to change the record of a run that was continued elsewhere after its folder was copied."""
    folder, num_epochs, num_known = recorded.record.folder, len(recorded.history), len(store.steps(EPOCH_METRIC))
    if num_known > num_epochs or (run.info.status == "FINISHED" and not recorded.scores):
        raise UserError(
            f"{folder.name}: MLflow has {counted(num_known, 'epoch')} of it ({run.info.status}), {folder} has "
            f"{num_epochs}: an older copy of the run; nothing was sent"
        )


def _in_words(**numbers: int) -> list[str]:
    return [counted(number, noun) for noun, number in numbers.items() if number]


def _send_parameters(store: MLflowStore, run: Any, recorded: Recorded) -> list[str]:
    record = recorded.record
    all_tags = tags_of(record, recorded.scores)
    new = {key: value for key, value in recorded.parameters.items() if key not in run.data.params}
    tags = {key: value for key, value in all_tags.items() if key not in run.data.tags}
    if run.data.tags.get(NOTE) == note(record.tags, {}) != all_tags[NOTE]:  # else a user may have written it
        tags[NOTE] = all_tags[NOTE]
    store.send(params=new, tags=tags)
    sent = _in_words(parameter=len(new), tag=len(tags))
    if record.data and not (run.inputs and run.inputs.dataset_inputs):
        store.client.log_inputs(store.run_id, data_sets(record.data))
        sent.append("the data set")
    return sent


def _send_metrics(store: MLflowStore, run: Any, recorded: Recorded) -> list[str]:
    of_epochs: set[str] = set().union(*recorded.history)
    last = max((int(entry["epoch"]) for entry in recorded.history), default=0)
    known = {key: store.steps(key) for key in run.data.metrics if key in of_epochs | recorded.scores.keys()}

    def missing(scores: dict[str, float], step: int) -> dict[str, float]:
        return {key: value for key, value in scores.items() if key != "epoch" and step not in known.get(key, ())}

    entries, epochs, timestamp = [], 0, float(recorded.record.started)
    for entry in recorded.history:
        timestamp += 1000 * entry.get("seconds", 0.0)  # about when the epoch ended
        fresh = missing(entry, int(entry["epoch"]))
        entries += metrics(fresh, int(timestamp), int(entry["epoch"]))
        epochs += bool(fresh)
    final = missing({key: value for key, value in recorded.scores.items() if key not in of_epochs}, last)
    entries += metrics(final, recorded.record.ended or int(timestamp), last)
    store.send(entries)
    return _in_words(epoch=epochs, score=len(final))


def _send_files(store: MLflowStore, recorded: Recorded) -> list[str]:
    sizes = {
        item.path: item.file_size
        for place in sorted(set(recorded.files.values()))
        for item in store.client.list_artifacts(store.run_id, place or None)
    }
    new = {
        path: place
        for path, place in recorded.files.items()
        if sizes.get(f"{place}/{path.name}".lstrip("/")) != path.stat().st_size
    }
    for path, place in new.items():
        store.send_file(path, place)
    return _in_words(file=len(new))
