"""Run folders: each is claimed before anything is written, and locked while a process uses it.

The operating system locks the file `.lock`, and releases it when the process ends in any way. Temporary files of a
killed process are removed once the folder is locked, by the exact names that `atomic_write` uses.
"""

import errno
import os
import re
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from cifar10.config.advice import command_line
from cifar10.config.foreign_yaml import parse_yaml
from cifar10.config.schema import Config, flatten
from cifar10.config.validation import validate
from cifar10.errors import UsageError
from cifar10.files import TEMPORARY, read_text
from cifar10.runs.checkpoint_names import BEST, LAST
from cifar10.runs.record import RECORD, RUN_ID

CONFIG, HISTORY, SCORES = "config.yaml", "history.csv", "scores.json"
FIGURES = ("curves.png", "confusion.png")
ARTIFACTS = {CONFIG: "", HISTORY: "", SCORES: "", **dict.fromkeys(FIGURES, "figures"), BEST: "checkpoints"}
"""The files of a finished run that MLflow keeps -> their folder in the run's artifacts."""
_FILES = (BEST, LAST, CONFIG, HISTORY, SCORES, RECORD, RUN_ID, *FIGURES)
_LOCK = ".lock"
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP)  # NFS without its lock daemon, some cluster file systems
_LEFTOVER = re.compile(TEMPORARY.format(name=f"({'|'.join(map(re.escape, _FILES))})"))


class FolderError(UsageError):
    """The folder belongs to another run, or cannot be written. Nothing was started."""


@dataclass(frozen=True, eq=False)
class RunFolder:
    """A folder that this process has claimed."""

    path: Path
    lock: FileLock

    def release(self) -> None:
        """Let other processes claim it."""
        self.lock.release()


def claim_new(models_dir: Path, name: str, may_be_renamed: bool) -> RunFolder:
    """Claim `models_dir/name` for a new run.

    Args:
        models_dir: Created if necessary.
        name: Name of the folder.
        may_be_renamed: Use NAME-2, NAME-3 and so on if NAME is taken.

    Raises:
        FolderError: It is taken, or cannot be written.
    """
    for number in count(1):
        path = models_dir / (name if number == 1 else f"{name}-{number}")
        try:
            return _claimed(path, is_new=True)
        except _TakenError:
            if not may_be_renamed:
                raise
    raise AssertionError("count() does not end")


def refuse_taken(models_dir: Path, name: str | None) -> None:
    """Refuse the name of another run for a new run, before the data set is loaded.

    Raises:
        FolderError: It is taken.
    """
    if name is not None:
        _refuse_any_of((BEST, LAST), models_dir / name)


def claim_existing(path: Path) -> RunFolder:
    """Claim the folder of a run that is resumed.

    Raises:
        FolderError: Another process uses it, or it cannot be written.
    """
    return _claimed(path, is_new=False)


def is_folder_of(config: Config, path: Path, models_dir: Path) -> bool:
    """Whether `path` is the run folder in `models_dir` that a checkpoint with this configuration was written to.

    It may be a link to a folder on another disk.
    """
    if path.absolute().parent.resolve() != models_dir.resolve():
        return False
    try:
        written = validate(Config, read_settings(path))
    except (OSError, TypeError, ValueError, RecursionError, yaml.YAMLError):  # a ValidationError is a ValueError
        return False
    return lasting_settings(written) == lasting_settings(config)


def read_settings(folder: Path) -> Any:
    """Return the content of `config.yaml`, which may be a stranger's.

    Raises:
        ValueError: It is not text, a value refers to another one, or values are nested too deeply.
        OSError, RecursionError, yaml.YAMLError: It cannot be read.
    """
    return parse_yaml(read_text(folder / CONFIG))


def lasting_settings(config: Config) -> dict[str, Any]:
    """Return the settings that stay the same when a run is resumed, by their dotted keys."""
    changing = (
        *(
            "run_name",
            "models_dir",
            "data_loading.root",
            "data_loading.sources",
            "data_loading.cache",
            "training.epochs",
        ),
        *("training.accelerator", "training.devices", "training.num_nodes"),
    )
    flat = flatten(config.plain())
    return {key: flat[key] for key in flat if key not in changing and not key.startswith("tracking.")}


class _TakenError(FolderError):
    """The folder holds another run, or a process uses it."""


def _claimed(path: Path, is_new: bool) -> RunFolder:
    lock = FileLock(path / _LOCK)
    try:
        path.mkdir(parents=True, exist_ok=True)
        if is_new and not (path / _LOCK).exists():
            _refuse_any_of(_FILES, path)  # of another program, or a copied run
        lock.acquire(timeout=0)
        try:
            if is_new:
                _refuse_any_of((BEST, LAST, SCORES), path)  # scores remain if checkpoints were deleted to save space
            for entry in os.listdir(path):
                if _LEFTOVER.fullmatch(entry):
                    (path / entry).unlink(missing_ok=True)
        except BaseException:
            lock.release()
            raise
    except Timeout:
        raise _TakenError(f"another process is training in {path}; wait for it, or choose another run_name") from None
    except OSError as error:
        reason = error.strerror or str(error)
        what = "is on a file system that cannot lock files" if error.errno in _NO_LOCKS else "cannot be written"
        raise FolderError(f"{path} {what} ({reason}); choose another with models_dir=DIR") from None
    return RunFolder(path, lock)


def _refuse_any_of(names: tuple[str, ...], path: Path) -> None:
    present = [name for name in names if (path / name).exists()]
    if present:
        line = command_line("train", resume=path.name, models_dir=str(path.parent))
        advice = f"resume it: {line}, or " if LAST in present else ""
        raise _TakenError(f"{path} already holds a run ({present[0]}); {advice}choose another run_name")
