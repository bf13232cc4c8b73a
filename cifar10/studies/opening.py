"""Open the database of a study, and refuse what cannot be begun or resumed, before anything heavy is imported."""

from pathlib import Path

from optuna.storages import RDBStorage

from cifar10.config.mlflow_uri import database_path, shown_uri
from cifar10.errors import UsageError
from cifar10.runs.checkpoint_names import BEST, LAST
from cifar10.runs.folder import SCORES
from cifar10.studies.storage import connect
from cifar10.studies.study import exists


def open_storage(study: str, folder: Path, url: str, resume: bool) -> RDBStorage:
    """Return the database of the study.

    Args:
        study: Its name.
        folder: Of the study.
        url: Of the database.
        resume: Whether the study must exist; else it must not.

    Raises:
        UserError: The database cannot be used, the study exists or does not, or its folder holds something else.
    """
    if any((folder / name).exists() for name in (BEST, LAST, SCORES)):
        raise UsageError(f"{folder} holds a run, which is not changed; choose another name: --study=NAME")
    path = database_path(url)
    if path is not None and path.is_dir():
        raise UsageError(f"{path} is a folder, not the database of a study; choose another name: --study=NAME")
    if resume and path is not None and not path.is_file():
        _refuse_left_trials(folder)
        raise UsageError(f"there is no study {study} to resume: {path} is not there; begin it without --resume")
    storage = connect(url)
    if exists(storage, study) == resume:
        if not resume:
            _refuse_left_trials(folder)
        return storage
    if resume:
        _refuse_left_trials(folder)
        raise UsageError(f"{shown_uri(url)} has no study {study} to resume; begin it without --resume")
    raise UsageError(
        f"the study {study} exists already in {shown_uri(url)}; go on with it: --resume, or choose another name: "
        "--study=NAME"
    )


def _refuse_left_trials(folder: Path) -> None:
    """Raise UsageError if a new study would take the runs of another one, whose database is lost, for its own."""
    if left := sorted(folder.glob("trial-*/")):
        raise UsageError(
            f"{folder} holds {left[0].name} of a study that is not in the database; choose another name: --study=NAME, "
            "or move the trials away"
        )
