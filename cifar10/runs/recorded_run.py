"""Read the information for MLflow from a run folder."""

import csv
import io
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

import yaml

from cifar10.config.schema import TrackingConfig
from cifar10.errors import UserError
from cifar10.files import read_text
from cifar10.runs.checkpoint_names import BEST, LAST
from cifar10.runs.folder import ARTIFACTS, CONFIG, HISTORY, SCORES, read_settings
from cifar10.runs.mlflow_entities import code_and_data_tags, parameters_of
from cifar10.runs.mlflow_store import reason_of
from cifar10.runs.record import RECORD, RUN_ID, RunRecord, Status

_TIMES = ("wall_seconds", "cpu_seconds")  # the scores whose names do not contain /


@dataclass(frozen=True)
class Recorded:
    """The content of a run folder for MLflow."""

    record: RunRecord
    tracking: TrackingConfig
    parameters: dict[str, str]
    history: list[dict[str, float]]
    """The scores of each epoch, with its number as `epoch`."""
    scores: dict[str, float]
    """Empty if the run is not finished."""

    @property
    def files(self) -> dict[Path, str]:
        """The existing files that are sent -> their folder in the run's artifacts."""
        folder, names = self.record.folder, ARTIFACTS if self.scores else (CONFIG, HISTORY)
        return {folder / name: ARTIFACTS[name] for name in names if (folder / name).is_file()}


def read_run(folder: Path) -> Recorded:
    """Return the content of `folder` for MLflow.

    Raises:
        UserError: A file cannot be read, or is a link to another folder.
    """
    for path in (folder / name for name in (*ARTIFACTS, RECORD, RUN_ID)):
        target = Path(os.path.realpath(path))  # Path.resolve raises for a link to itself
        if path.is_symlink() and not target.is_relative_to(folder.resolve()):  # it could send any file of yours
            raise UserError(f"{path} is a link to {target}, and not sent; put the file itself there")
    try:
        settings = read_settings(folder)
        tracking = TrackingConfig.model_validate(settings["tracking"])
        scores = _scores(folder / SCORES)
        history = read_history(folder / HISTORY)
        record = _record(folder, bool(scores))
    except UserError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RecursionError, csv.Error, yaml.YAMLError) as error:
        raise UserError(f"{folder} cannot be read as a run: {reason_of(error)}") from error
    return Recorded(record, tracking, parameters_of(settings), history, scores)


def read_history(path: Path) -> list[dict[str, float]]:
    """Return the epochs in a `history.csv`; none if there is no such file."""
    if not path.is_file():
        return []
    return [
        {key: number for key, text in row.items() if (number := _number(text)) is not None}
        for row in csv.DictReader(io.StringIO(read_text(path), newline=""))
    ]


def _scores(path: Path) -> dict[str, float]:
    if not path.is_file():
        return {}
    facts = json.loads(read_text(path))
    if not isinstance(facts, dict):
        raise ValueError(f"{path.name} is no mapping of names to values")
    return {
        key: number
        for key, value in facts.items()
        if ("/" in key or key in _TIMES) and (number := _number(value)) is not None
    }


def _number(value: object) -> float | None:
    """Return `value` as a finite number, None if it is not one."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _record(folder: Path, is_finished: bool) -> RunRecord:
    """Return the run's record, with an end if its process ended without writing one."""
    record = RunRecord.of(folder)
    is_running = record.is_running() if record else not is_finished  # older versions do not record the process
    record = record or _from_checkpoint(folder)
    if record.ended is None and not (is_running and record.is_running()):
        status: Status = "FINISHED" if is_finished else "KILLED"
        record.end(status, int(record.changed() * 1000))
    return record


def _from_checkpoint(folder: Path) -> RunRecord:
    """Return a record of a run that is older than `run.json`, from its checkpoint."""
    from cifar10.runs.checkpoints import load_checkpoint

    started = int((folder / CONFIG).stat().st_mtime * 1000)
    record = RunRecord(folder, started=started)
    path = next((folder / name for name in (BEST, LAST) if (folder / name).is_file()), None)
    if path is None:
        return record
    checkpoint = load_checkpoint(path)
    metadata = checkpoint.metadata.model_dump()
    tags = code_and_data_tags({**metadata, "data_name": metadata["data_name"] or ""}, checkpoint.config.model.target)
    record.tags = {key: str(value) for key, value in tags.items() if value is not None}
    source = checkpoint.config.data_loading.target
    record.data = {"name": record.tags["data"], "digest": checkpoint.data_digest, "source": source}
    return record
