"""A study in MLflow: one run, with the runs of its trials as children."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cifar10.config.schema import TrackingConfig
from cifar10.errors import UserError
from cifar10.runs.mlflow_entities import KEY_TAG, NOTE, parameters_of
from cifar10.runs.mlflow_store import MLflowStore, probe, reason_of
from cifar10.runs.record import RunRecord, Status
from cifar10.system.streams import print_message

_PARENT = "mlflow.parentRunId"  # the tag by which MLflow nests runs


@dataclass(frozen=True)
class Parent:
    """The run of a study; without an id, it is not in MLflow."""

    run_id: str | None
    folder: Path
    tracking: TrackingConfig
    go_on: str
    """The command line that resumes the study."""

    @property
    def child_tags(self) -> dict[str, str]:
        """Return the tags of each trial's run that nest it."""
        return {} if self.run_id is None else {_PARENT: self.run_id}

    def finish(
        self,
        is_complete: bool,
        settings: Mapping[str, Any],
        scores: Mapping[str, float],
        note: str,
        files: Sequence[Path],
    ) -> str | None:
        """Send the results of the study so far; return how to see them, None if they are not in MLflow."""
        if self.run_id is None:
            return None
        record = RunRecord.of(self.folder) or RunRecord(self.folder)
        record.run_id = self.run_id
        status: Status = "FINISHED" if is_complete else "RUNNING"
        if is_complete:
            record.close(status)
        try:
            probe(self.tracking.uri)
            store = MLflowStore(self.tracking, record)
            known = store.client.get_run(store.run_id).data.params
            parameters = {key: text for key, text in parameters_of(dict(settings)).items() if key not in known}
            store.send(params=parameters, tags={NOTE: note})
            for key, value in scores.items():
                store.client.log_metric(store.run_id, key, value)
            for file in files:
                store.send_file(file, "sweep")
            if is_complete:
                store.client.set_terminated(store.run_id, status, record.ended)
        except Exception as error:  # MLflow raises its own, requests', SQLAlchemy's and OSError
            reason = f"MLflow did not accept the results of the sweep: {reason_of(error)}"
            _lost(self.tracking, f"{reason}; when it is available, this sends them: {self.go_on}")
            return None
        return store.address()


def open_parent(tracking: TrackingConfig, folder: Path, known_id: str | None, study: str, go_on: str) -> Parent:
    """Create the study's run in MLflow, unless it has one; an unavailable store costs a warning.

    Args:
        tracking: Where to record.
        folder: Of the study, for `run.json`.
        known_id: The run that another process has created.
        study: Its name.
        go_on: The command line that resumes it.

    Raises:
        UserError: The store is unavailable and required.
    """
    if tracking.backend == "none" or known_id is not None:
        return Parent(known_id if tracking.backend != "none" else None, folder, tracking, go_on)
    record = RunRecord.of(folder) or RunRecord(folder)
    record.begin({"sweep.study": study}, {})
    try:
        probe(tracking.uri)
        store = MLflowStore(tracking, record)
        store.send(tags={**record.tags, KEY_TAG: record.key, NOTE: f"The sweep {study}"})
        record.run_id = store.run_id
    except Exception as error:  # MLflow raises its own, requests', SQLAlchemy's and OSError
        reason = f"the sweep has no run in MLflow, and its trials no parent: {reason_of(error)}"
        _lost(tracking, f"{reason}; when it is available, this makes up for it: {go_on}")
        return Parent(None, folder, tracking, go_on)
    parent = Parent(store.run_id, folder, tracking, go_on)
    for trial in sorted(folder.glob("trial-*/")):  # made while the store was unavailable
        mark_run(trial, parent.child_tags, tracking)
    return parent


def mark_run(folder: Path, tags: Mapping[str, str], tracking: TrackingConfig) -> None:
    """Add tags to a run that has ended, in its folder and in MLflow; nothing that fails here is fatal."""
    record = RunRecord.of(folder)
    if record is None:  # it has failed before it began
        return
    record.tags |= tags
    try:
        record.save()
        if tracking.backend == "none" or record.run_id is None:
            return
        probe(tracking.uri)
        MLflowStore(tracking, record).send(tags=tags)
    except Exception as error:  # as above
        print_message(f"warning: {folder.name} was not marked in MLflow: {reason_of(error)}")


def _lost(tracking: TrackingConfig, reason: str) -> None:
    if tracking.required:
        raise UserError(reason)
    print_message(f"warning: {reason}")
