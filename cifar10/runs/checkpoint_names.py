"""Resolve `--checkpoint_name` to a file. Needs no PyTorch, so a wrong name is refused quickly."""

import atexit
import contextlib
import errno
import json
import os
import re
import shutil
import struct
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from cifar10.config.advice import command_line
from cifar10.config.conf_folder import PROJECT
from cifar10.config.run_name import MLFLOW_RUN_ID, refusal_of_run_name
from cifar10.errors import CheckpointError
from cifar10.files import read_file
from cifar10.suggest import did_you_mean

BEST, LAST = "best.ckpt", "last.ckpt"

_SHOWN = 8  # names listed in a refusal
_LONGEST_NAME = 200  # characters of a name that a message repeats
_DATA_SECTION = re.compile(r"^data_loading:\n((?: .*\n)*)", re.MULTILINE)
_FACTS_SIZE = 2**20  # bytes of a file that describes a run


def resolve_checkpoint(name: str, models_dir: str = "models", prefer: str = BEST) -> Path:
    """Return the checkpoint file of `name`.

    Args:
        name: In this order: `best` or `last` (of the newest run), a path to a file or a run's folder, a name in
            `models_dir` with or without `.ckpt`, an MLflow run id, or a registered model (`models:/NAME@ALIAS`).
        models_dir: Where run folders are.
        prefer: The file to use from a run's folder.

    Raises:
        CheckpointError: There is none; the message lists the existing ones.
    """
    local = find_locally(name, models_dir, prefer)
    if local is not None:
        return local
    return _downloaded(f"runs:/{name}/checkpoints/{prefer}" if MLFLOW_RUN_ID.fullmatch(name) else name)


def find_locally(name: str, models_dir: str = "models", prefer: str = BEST) -> Path | None:
    """Return the file of `name` if it is on this machine, None if it may be in MLflow; arguments as above.

    Raises:
        CheckpointError: There is none, and `name` cannot be in MLflow.
    """
    models = Path(models_dir)
    if name in ("best", "last"):
        file_name = f"{name}.ckpt"
        if files := _by_age(models, file_name):
            return files[0]
        train = command_line("train", models_dir=models_dir)
        raise CheckpointError(f"no run in {_shown(models)} has a {file_name}; train one: {train}")
    if name.startswith(("models:/", "runs:/")):
        return None
    for candidate in (Path(name), models / name, models / f"{name}.ckpt"):
        if os.path.isfile(candidate):
            return candidate
        if os.path.isfile(candidate / prefer):
            return candidate / prefer
    if MLFLOW_RUN_ID.fullmatch(name):
        runs = (marker.parent for marker in _found(models, "*/run_id") if _read(marker).strip() == name)
        return next((run / prefer for run in runs if os.path.isfile(run / prefer)), None)
    raise CheckpointError(_refusal(name, models, prefer))


def which_run(name: str, models_dir: str = "models") -> list[str]:
    """Return lines that name the run of `best` or `last`, to print before work begins; nothing for other names.

    The first line has its file, data set and accuracy, and whether it is finished. A second line names the newest run
    on another data set, if there is one.
    """
    if name not in ("best", "last"):
        return []
    newest, *older = (file.parent for file in _by_age(Path(models_dir), f"{name}.ckpt"))
    state = "the newest run" if _scores_of(newest) else "the newest run, which is still training or was interrupted"
    lines = [f"{name} is {newest / name}.ckpt ({_summary(newest)}), {state}"]
    data = _data_of(newest)
    other = next((run for run in older if _data_of(run) != data), None)
    if other is not None:
        lines.append(
            f"note: {other} ({_summary(other)}) was trained on other data; "
            f"if that is meant: --checkpoint_name={name_of_run(other)}"
        )
    return lines


def refuse_damaged(name: str, models_dir: str = "models") -> None:
    """Refuse `best` or `last` if its file is damaged, and name another one: of the same run, else of the run before.

    Nobody who asks for the newest run is given the predictions of another one.

    Raises:
        CheckpointError: It is no whole archive, or a checksum in it differs, and there is another one.
    """
    newest, *older = _by_age(Path(models_dir), f"{name}.ckpt")
    if _is_whole(newest):
        return
    others = [newest.with_name(LAST if name == "best" else BEST), *older]
    whole = next((file for file in others if _is_whole(file)), None)
    if whole is not None:
        raise CheckpointError(f"{newest}, of the newest run, is damaged; name another one: --checkpoint_name={whole}")


def _is_whole(file: Path) -> bool:
    """Whether a file is an archive as PyTorch writes them, with the right checksums. It is read once."""
    try:
        with file.open("rb") as opened, zipfile.ZipFile(opened) as archive:
            entries = archive.infolist()
            is_stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
            num_bytes = sum(entry.file_size for entry in entries)
            return is_stored and num_bytes <= os.fstat(opened.fileno()).st_size and archive.testzip() is None
    except (OSError, ValueError, EOFError, NotImplementedError, RuntimeError, struct.error, zipfile.BadZipFile):
        return False


def name_of_run(folder: Path) -> str:
    """Return the shortest `--checkpoint_name` of the run in `folder`: its name in `models/`, else its path."""
    in_models = os.path.abspath(folder.parent) == os.path.abspath("models")
    return folder.name if in_models and refusal_of_run_name(folder.name) is None else str(folder)


def _by_age(models: Path, file_name: str) -> list[Path]:
    """Return the files of that name in the run folders of `models`, newest first."""
    ages: dict[Path, int] = {}
    for file in _found(models, f"*/{file_name}"):
        with contextlib.suppress(OSError):  # deleted meanwhile
            ages[file] = file.stat().st_mtime_ns
    return sorted(ages, key=lambda file: (-ages[file], file.parent.name))


def _found(folder: Path, pattern: str) -> list[Path]:
    """Return the files in `folder` that match."""
    try:
        return [file for file in folder.glob(pattern) if os.path.isfile(file)]
    except OSError as error:
        raise CheckpointError(f"{_shown(folder)} cannot be read: {error.strerror}") from None


def _summary(run: Path) -> str:
    """Return data set and accuracy of a run."""
    data, scores = _data_of(run), _scores_of(run)
    accuracy = scores.get("test/accuracy_tta", scores.get("test/accuracy"))
    return f"{data}, {accuracy:.1%}" if isinstance(accuracy, float) else data


def _data_of(run: Path) -> str:
    """Return a run's data set: the last part of its target, and the root of an image folder.

    Read without a YAML parser, which takes milliseconds a run.
    """
    section = _DATA_SECTION.search(_read(run / "config.yaml"))
    settings = dict(re.findall(r"^  (\w+): (.+)$", section[1], re.MULTILINE)) if section else {}
    name = settings.get("_target_", "unknown data").rpartition(".")[2]
    return f"{name} in {settings['root']}" if name == "folder" and "root" in settings else name


def _scores_of(run: Path) -> dict[str, Any]:
    """Return the scores of a run; empty if it is not finished."""
    try:
        scores = json.loads(_read(run / "scores.json"))
    except (ValueError, RecursionError):
        return {}
    return scores if isinstance(scores, dict) else {}


def _read(file: Path) -> str:
    """Return the content of a text file, empty if it cannot be read."""
    try:
        return read_file(file, _FACTS_SIZE).decode(errors="replace")
    except OSError:
        return ""


def _shown(models: Path) -> str:
    """Return a folder's name for messages: as given in the project's folder, else the absolute path."""
    try:
        below = os.path.samefile(os.curdir, PROJECT)
    except OSError:
        return f"{models}/"
    return f"{models if below else os.path.abspath(models)}/"


def _downloaded(uri: str) -> Path:
    """Download `uri` from MLflow: a file, or a folder with one checkpoint. It is removed at exit."""
    folder = tempfile.mkdtemp(prefix="cifar10-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return download_checkpoint(uri, Path(folder))


def download_checkpoint(uri: str, folder: Path) -> Path:
    """Download `uri` from MLflow into `folder`, and return its checkpoint.

    Args:
        uri: Address of a file, or of a folder with one checkpoint: models:/NAME@ALIAS, models:/NAME/NUMBER, runs:/...
        folder: An empty one.

    Raises:
        CheckpointError: There is nothing of this address, or the store is unavailable.
    """
    from cifar10.config.mlflow_uri import absolute_uri, default_uri, shown_uri
    from cifar10.runs.mlflow_store import StoreError, connect_for_reading, reason_of, using_store

    store = default_uri()
    try:
        connect_for_reading(store)
    except StoreError as error:
        raise CheckpointError(f"'{uri}' is to come from MLflow, but {error}") from None
    try:
        import mlflow

        with using_store(absolute_uri(store)):
            local = Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(folder)))
    except Exception as error:  # MLflow raises its own, requests', SQLAlchemy's and OSError
        raise CheckpointError(f"MLflow has no '{uri}' at {shown_uri(store)}: {reason_of(error)}") from None
    files = [local] if local.is_file() else sorted(local.rglob("*.ckpt"))
    if len(files) != 1:
        raise CheckpointError(f"'{uri}' holds {len(files)} checkpoints; name one of them")
    return files[0]


def _refusal(name: str, models: Path, prefer: str) -> str:
    """Return a message that there is no such checkpoint, and similar names, existing ones, or how to train one."""
    for run in (Path(name), models / name):
        beside = sorted(file.name for file in _found(run, "*.ckpt")) if os.path.isdir(run) else []
        if beside:
            return f"{run} has no {prefer}; name a file in it: {run / beside[0]}"
        if os.path.isdir(run) and not os.access(run, os.R_OK | os.X_OK):
            return f"{run} cannot be read: {os.strerror(errno.EACCES)}"
    shortened = name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}..."
    refusal = f"there is no checkpoint {shortened}, neither as a path nor in {_shown(models)}"
    runs = sorted({file.parent.name for file in _found(models, "*/*.ckpt")})
    names = [*runs, *sorted(file.name for file in _found(models, "*.ckpt"))]
    if not names:
        return f"{refusal}, which holds none yet; train one: {command_line('train', models_dir=str(models))}"
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    listed = f", which holds: {', '.join(names[-_SHOWN:])}{more}"
    return refusal + (did_you_mean(name, [*names, "best", "last"]) or listed)
