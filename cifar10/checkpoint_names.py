"""What a `--checkpoint_name` may mean. Without PyTorch: a wrong name is refused before anything heavy is imported."""

import atexit
import os
import re
import shutil
import tempfile
from pathlib import Path

from cifar10.errors import CheckpointError
from cifar10.nearest import did_you_mean

BEST, LAST = "best.ckpt", "last.ckpt"

_RUN_ID = re.compile(r"[0-9a-f]{32}")
_MLFLOW_PREFIXES = ("models:/", "runs:/")
_SHOWN = 8  # names listed in a refusal


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
    return _downloaded(f"runs:/{name}/checkpoints/{prefer}" if _RUN_ID.fullmatch(name) else name)


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
    if _RUN_ID.fullmatch(name):
        return _of_run_id(models, name, prefer)
    raise CheckpointError(_refusal(name, models, prefer))


def _of_newest_run(models: Path, file_name: str) -> Path:
    files = [file for file in models.glob(f"*/{file_name}") if file.is_file()]
    if not files:
        raise CheckpointError(f"no run in {models}/ has a {file_name}; train one: python commands.py train")
    return max(files, key=lambda file: file.stat().st_mtime_ns)


def _of_run_id(models: Path, run_id: str, prefer: str) -> Path | None:
    for marker in models.glob("*/run_id"):
        if marker.read_text().strip() == run_id and (marker.parent / prefer).is_file():
            return marker.parent / prefer
    return None


def _downloaded(uri: str) -> Path:
    """Fetch what MLflow keeps under `uri`: a file, or a folder that holds one checkpoint. It is removed at exit."""
    from cifar10.mlflow_store import StoreError, connect_for_reading, reason_of
    from cifar10.mlflow_uri import absolute_uri, default_uri, shown_uri

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
        beside = sorted(file.name for file in run.glob("*.ckpt")) if os.path.isdir(run) else []
        if beside:
            return f"{run} has no {prefer}; name a file in it: {run / beside[0]}"
    refusal = f"there is no checkpoint {name}, neither as a path nor in {models}/"
    runs = sorted({file.parent.name for file in models.glob("*/*.ckpt")})
    names = [*runs, *sorted(file.name for file in models.glob("*.ckpt"))]
    if not names:
        return f"{refusal}, which holds none yet; train one: python commands.py train"
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    all_names = f", which holds: {', '.join(names[-_SHOWN:])}{more}"
    return refusal + (did_you_mean(name, [*names, "best", "last"]) or all_names)
