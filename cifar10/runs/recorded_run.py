"""Read from a run folder what MLflow is told of the run."""

import csv
import json
import math
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import ValidationError

from cifar10.config.schema import TrackingConfig
from cifar10.errors import UserError
from cifar10.runs.checkpoint_names import BEST, LAST
from cifar10.runs.folder import read_settings
from cifar10.runs.mlflow_entities import NOTE, note, parameters_of
from cifar10.runs.mlflow_store import KEY_TAG, reason_of
from cifar10.runs.record import RunRecord, Status

_ALWAYS = {"config.yaml": "", "history.csv": ""}
_WHEN_FINISHED = {
    **_ALWAYS,
    "scores.json": "",
    "curves.png": "figures",
    "confusion.png": "figures",
    "best.ckpt": "checkpoints",
}
"""The files that are sent -> the folder of MLflow's artifacts that they go to."""
_TIMES = ("wall_seconds", "cpu_seconds")  # the scores whose names have no / in them


@dataclass(frozen=True)
class Recorded:
    """What a run's folder holds for MLflow."""

    record: RunRecord
    tracking: TrackingConfig
    parameters: dict[str, str]
    history: list[dict[str, float]]
    """One entry of scores an epoch, with its number as `epoch`."""
    scores: dict[str, float]
    """Empty if the run did not come to its end."""

    @property
    def files(self) -> dict[Path, str]:
        """The files there are -> the folder of MLflow's artifacts that they go to."""
        names = _WHEN_FINISHED if self.scores else _ALWAYS
        folder = self.record.folder
        return {folder / name: place for name, place in names.items() if (folder / name).is_file()}

    @property
    def tags(self) -> dict[str, str]:
        return {**self.record.tags, KEY_TAG: self.record.key, NOTE: note(self.record.tags, self.scores)}


def read_run(folder: Path) -> Recorded:
    """Return what `folder` holds for MLflow.

    Raises:
        UserError: A file cannot be read, or is a link to another place.
    """
    _refuse_links(folder)
    try:
        settings = read_settings(folder)
        tracking = TrackingConfig.model_validate(settings["tracking"])
        scores = _scores(folder / "scores.json")
        history = _history(folder / "history.csv")
        record = _record(folder, bool(scores))
    except (OSError, ValueError, KeyError, TypeError, RecursionError, yaml.YAMLError, ValidationError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{folder} cannot be read as a run: {reason_of(error)}") from error
    return Recorded(record, tracking, parameters_of(settings), history, scores)


def _refuse_links(folder: Path) -> None:
    """Refuse a file that is a link to one outside of the folder: in a stranger's run, it would send a file of yours."""
    for path in (folder / name for name in (*_WHEN_FINISHED, "run.json", "run_id")):
        if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"{path} is a link to {path.resolve()}, and not sent; put the file itself there")


def _history(path: Path) -> list[dict[str, float]]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [
            {key: number for key, text in row.items() if (number := _number(text)) is not None}
            for row in csv.DictReader(file)
        ]


def _scores(path: Path) -> dict[str, float]:
    if not path.is_file():
        return {}
    facts = json.loads(path.read_text(encoding="utf-8"))
    return {
        key: number
        for key, value in facts.items()
        if ("/" in key or key in _TIMES) and (number := _number(value)) is not None
    }


def _number(value: object) -> float | None:
    """Return `value` as a number, None if it is none."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _record(folder: Path, is_finished: bool) -> RunRecord:
    """Return the run's record, with an end if its process has gone without a word."""
    record = RunRecord.of(folder)
    is_running = record.is_running() if record else not is_finished  # an older version keeps no process
    record = record or _from_checkpoint(folder)
    if record.ended is None and not (is_running and record.is_running()):
        status: Status = "FINISHED" if is_finished else "KILLED"
        record.end(status, int(record.changed() * 1000))
    return record


def _from_checkpoint(folder: Path) -> RunRecord:
    """Return a record of a run that is older than `run.json`, as far as its checkpoint tells."""
    from cifar10.runs.checkpoints import load_checkpoint

    started = int((folder / "config.yaml").stat().st_mtime * 1000)
    record = RunRecord(folder, started=started)
    path = next((folder / name for name in (BEST, LAST) if (folder / name).is_file()), None)
    if path is None:
        return record
    checkpoint = load_checkpoint(path)
    known, model = checkpoint.metadata.model_dump(), checkpoint.config.model.target
    plain = ("git_commit", "git_dirty", "code_digest", "data_digest", "precision", "program")
    record.tags = {
        **{key: str(known[key]) for key in plain if known.get(key) is not None},
        **{f"version.{name}": str(number) for name, number in known.get("versions", {}).items()},
        "data": str(known.get("data_name", "")),
        "model": model.rpartition(".")[2],
    }
    source = checkpoint.config.data_loading.target
    record.data = {"name": record.tags["data"], "digest": checkpoint.data_digest, "source": source}
    return record
