"""Resolve `--checkpoint_name` to a file. Needs no PyTorch, so a wrong name is refused quickly."""

import atexit
import contextlib
import json
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from cifar10.config.advice import command_line
from cifar10.config.conf_folder import PROJECT
from cifar10.config.run_name import MLFLOW_RUN_ID, refusal_of_run_name
from cifar10.errors import CheckpointError
from cifar10.suggest import did_you_mean

BEST, LAST = "best.ckpt", "last.ckpt"

_MLFLOW_PREFIXES = ("models:/", "runs:/")
_SHOWN = 8  # names listed in a refusal
_LONGEST_NAME = 200  # characters of a name that are repeated to its author
_DATA_SECTION = re.compile(r"^data_loading:\n((?: .*\n)*)", re.MULTILINE)
_FACTS_SIZE = 2**20  # bytes read of a file that describes a run


def resolve_checkpoint(name: str, models_dir: str = "models", prefer: str = BEST) -> Path:
    """Return the file that `name` means.

    Args:
        name: In this order: `best` or `last` (of the newest run), a path to a file or a run's folder, a name in
            `models_dir` with or without `.ckpt`, an MLflow run id, or a registered model (`models:/NAME@ALIAS`).
        models_dir: Where run folders are.
        prefer: Which file of a run's folder is meant.

    Raises:
        CheckpointError: There is none; the message says what there is.
    """
    local = find_locally(name, models_dir, prefer)
    if local is not None:
        return local
    return _downloaded(f"runs:/{name}/checkpoints/{prefer}" if MLFLOW_RUN_ID.fullmatch(name) else name)


def find_locally(name: str, models_dir: str = "models", prefer: str = BEST) -> Path | None:
    """Return the file that `name` means if it is on this machine, None if only MLflow can tell; arguments as above.

    Raises:
        CheckpointError: There is none, and MLflow need not be asked.
    """
    models = Path(models_dir)
    if name in ("best", "last"):
        return _of_newest_run(models, f"{name}.ckpt")
    if name.startswith(_MLFLOW_PREFIXES):
        return None
    for candidate in (Path(name), models / name, models / f"{name}.ckpt"):
        if os.path.isfile(candidate):
            return candidate
        if os.path.isfile(candidate / prefer):
            return candidate / prefer
    if MLFLOW_RUN_ID.fullmatch(name):
        return _of_run_id(models, name, prefer)
    raise CheckpointError(_refusal(name, models, prefer))


def which_run(name: str, models_dir: str = "models") -> list[str]:
    """Return which run is meant if `name` is `best` or `last`, to be said before work begins; nothing for other names.

    The first line has its file, data set and accuracy, and whether it is finished. A second one names the newest run of
    another data set, if there is one, since it may have been meant.
    """
    if name not in ("best", "last"):
        return []
    newest, *older = _by_age(Path(models_dir), f"{name}.ckpt")
    data, scores = _data_of(newest.parent), _scores_of(newest.parent)
    state = "the newest run" if scores else "the newest run, which is still training or was broken off"
    lines = [f"{name} is {newest} ({_summary(data, scores)}), {state}"]
    other = next((file for file in older if _data_of(file.parent) != data), None)
    if other is not None:
        summary = _summary(_data_of(other.parent), _scores_of(other.parent))
        lines.append(
            f"note: {other.parent} ({summary}) was trained on other data; "
            f"if that is meant: --checkpoint_name={name_of_run(other.parent)}"
        )
    return lines


def name_of_run(folder: Path) -> str:
    """Return the shortest `--checkpoint_name` that means the run in `folder`: its name in `models/`, else its path."""
    in_models = os.path.abspath(folder.parent) == os.path.abspath("models")
    return folder.name if in_models and refusal_of_run_name(folder.name) is None else str(folder)


def _of_newest_run(models: Path, file_name: str) -> Path:
    files = _by_age(models, file_name)
    if not files:
        train = command_line("train", models_dir=str(models))
        raise CheckpointError(f"no run in {_shown(models)} has a {file_name}; train one: {train}")
    return files[0]


def _by_age(models: Path, file_name: str) -> list[Path]:
    """Return the files of that name in the runs of `models`, the newest first."""
    ages: dict[Path, int] = {}
    for file in _found(models, f"*/{file_name}"):
        with contextlib.suppress(OSError):  # gone since
            ages[file] = file.stat().st_mtime_ns
    return sorted(ages, key=lambda file: (-ages[file], file.parent.name))


def _found(folder: Path, pattern: str) -> list[Path]:
    """Return the files in `folder` that match.

    Raises:
        CheckpointError: It cannot be looked into.
    """
    try:
        return [file for file in folder.glob(pattern) if os.path.isfile(file)]
    except OSError as error:
        raise CheckpointError(f"{_shown(folder)} cannot be read: {error.strerror}") from None


def _of_run_id(models: Path, run_id: str, prefer: str) -> Path | None:
    for marker in _found(models, "*/run_id"):
        if _read(marker).strip() == run_id and os.path.isfile(marker.parent / prefer):
            return marker.parent / prefer
    return None


def _summary(data: str, scores: dict[str, Any]) -> str:
    """Return data set and accuracy of a run in a few words."""
    accuracy = scores.get("test/accuracy_tta", scores.get("test/accuracy"))
    return f"{data}, {accuracy:.1%}" if isinstance(accuracy, float) else data


def _data_of(run: Path) -> str:
    """Return what a run was trained on: the last part of the data set's target, and its root where that matters.

    Read without a YAML parser, which takes milliseconds a run.
    """
    section = _DATA_SECTION.search(_read(run / "config.yaml"))
    settings = dict(re.findall(r"^  (\w+): (.+)$", section[1], re.MULTILINE)) if section else {}
    name = settings.get("_target_", "unknown data").rpartition(".")[2]
    return f"{name} in {settings['root']}" if name == "folder" and "root" in settings else name


def _scores_of(run: Path) -> dict[str, Any]:
    """Return the scores of a finished run; nothing if it is not finished."""
    try:
        scores = json.loads(_read(run / "scores.json"))
    except (ValueError, RecursionError):
        return {}
    return scores if isinstance(scores, dict) else {}


def _read(file: Path) -> str:
    """Return the beginning of a small text file, nothing if it cannot be read."""
    try:
        with file.open("rb") as opened:
            return opened.read(_FACTS_SIZE).decode(errors="replace")
    except OSError:
        return ""


def _shown(models: Path) -> str:
    """Return how to call a folder: as it was given if it lies below the project, seen from there; else in full."""
    try:
        below = os.path.samefile(os.curdir, PROJECT)
    except OSError:
        return f"{models}/"
    return f"{models if below else os.path.abspath(models)}/"


def _downloaded(uri: str) -> Path:
    """Fetch what MLflow keeps under `uri`: a file, or a folder that holds one checkpoint. It is removed at exit."""
    from cifar10.config.mlflow_uri import absolute_uri, default_uri, shown_uri
    from cifar10.runs.mlflow_store import StoreError, connect_for_reading, reason_of

    store = default_uri()
    try:
        connect_for_reading(store)
    except StoreError as error:
        raise CheckpointError(f"'{uri}' is to come from MLflow, but {error}") from None
    folder = tempfile.mkdtemp(prefix="cifar10-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    try:
        import mlflow

        mlflow.set_tracking_uri(absolute_uri(store))
        local = Path(mlflow.artifacts.download_artifacts(uri, dst_path=folder))
    except Exception as error:  # MLflow raises its own, requests', SQLAlchemy's and OSError
        raise CheckpointError(f"MLflow has no '{uri}' at {shown_uri(store)}: {reason_of(error)}") from None
    files = [local] if local.is_file() else sorted(local.rglob("*.ckpt"))
    if len(files) != 1:
        raise CheckpointError(f"'{uri}' holds {len(files)} checkpoints; name one of them")
    return files[0]


def _refusal(name: str, models: Path, prefer: str) -> str:
    """Say that there is no such checkpoint, and what was meant, what there is, or how to get one."""
    for run in (Path(name), models / name):
        beside = sorted(file.name for file in _found(run, "*.ckpt")) if os.path.isdir(run) else []
        if beside:
            return f"{run} has no {prefer}; name a file in it: {run / beside[0]}"
    told = name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}..."
    refusal = f"there is no checkpoint {told}, neither as a path nor in {_shown(models)}"
    runs = sorted({file.parent.name for file in _found(models, "*/*.ckpt")})
    names = [*runs, *sorted(file.name for file in _found(models, "*.ckpt"))]
    if not names:
        return f"{refusal}, which holds none yet; train one: {command_line('train', models_dir=str(models))}"
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    all_names = f", which holds: {', '.join(names[-_SHOWN:])}{more}"
    return refusal + (did_you_mean(name, [*names, "best", "last"]) or all_names)
