"""Record a comparison in MLflow when it is complete: the winner's run, and all runs as its children."""

from pathlib import Path

from cifar10.config.schema import TrackingConfig
from cifar10.errors import UserError
from cifar10.laboratory.folder import Laboratory
from cifar10.runs.mlflow_store import MLflowStore, StoreError, reason_of
from cifar10.runs.record import RunRecord
from cifar10.sync import synced

_PARENT = "mlflow.parentRunId"  # the tag by which MLflow nests runs


def record_comparison(laboratory: Laboratory, names: list[str], winner: str, files: list[Path]) -> str:
    """Send the winner's folder, the runs `names` and `files`; return how to see them in MLflow.

    Raises:
        UserError: The store did not accept everything.
    """
    tracking = laboratory.config.tracking
    parent = _parent_record(laboratory, names, winner)
    synced(laboratory.winner, tracking.uri)
    for name in names:
        record = RunRecord.of(laboratory.folder / name)
        assert record is not None
        record.tags[_PARENT] = str(parent.run_id)
        record.save()
        synced(record.folder, tracking.uri)
    return _send_files(tracking, parent, files)


def _parent_record(laboratory: Laboratory, names: list[str], winner: str) -> RunRecord:
    """Return the record of the comparison in the winner's folder, made at first."""
    runs = [record for name in names if (record := RunRecord.of(laboratory.folder / name))]
    of_winner = RunRecord.of(laboratory.folder / winner)
    assert of_winner is not None
    started = min(record.started for record in runs)
    record = RunRecord.of(laboratory.winner) or RunRecord(laboratory.winner, started=started)
    record.begin({**of_winner.tags, "comparison": "pooling", "winner": winner, "runs": len(names)}, of_winner.data)
    record.close("FINISHED")
    return record


def _send_files(tracking: TrackingConfig, record: RunRecord, files: list[Path]) -> str:
    try:
        store = MLflowStore(tracking, record)
        for file in files:
            store.send_file(file, "comparison")
    except StoreError as error:
        raise UserError(str(error)) from None
    except Exception as error:  # MLflow raises its own, requests', SQLAlchemy's and OSError
        raise UserError(f"MLflow did not accept the report: {reason_of(error)}") from error
    return store.address()
