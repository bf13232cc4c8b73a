"""A name finds the right file, or the refusal says what there is."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cifar10.checkpoint_names import LAST, find_locally, resolve_checkpoint
from cifar10.errors import CheckpointError
from tests.documented import ROOT

RUN_ID = "f" * 32


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Two runs, of which `old` is tracked and the older one, and a single file."""
    folder = tmp_path / "models"
    for name in ("old/best.ckpt", "old/last.ckpt", "new/best.ckpt", "new/last.ckpt", "1e5.ckpt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    for file in (folder / "old").iterdir():
        os.utime(file, (1, 1))
    (folder / "old" / "run_id").write_text(RUN_ID + "\n")
    return folder


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("best", "new/best.ckpt"),
        ("last", "new/last.ckpt"),
        ("old", "old/best.ckpt"),
        ("1e5", "1e5.ckpt"),
        ("1e5.ckpt", "1e5.ckpt"),
        (RUN_ID, "old/best.ckpt"),
    ],
)
def test_names_mean_what_they_say(models: Path, name: str, file: str) -> None:
    assert resolve_checkpoint(name, str(models)) == models / file


def test_paths_to_a_file_and_to_a_run_are_names_too(models: Path) -> None:
    assert resolve_checkpoint(str(models / "old" / "last.ckpt"), "elsewhere") == models / "old" / "last.ckpt"
    assert resolve_checkpoint(str(models / "old"), "elsewhere") == models / "old" / "best.ckpt"


@pytest.mark.parametrize("name", ["old", RUN_ID])
def test_of_a_run_the_preferred_file_is_meant(models: Path, name: str) -> None:
    assert resolve_checkpoint(name, str(models), prefer=LAST) == models / "old" / "last.ckpt"


@pytest.mark.parametrize("name", ["models:/cats@champion", "runs:/abc/checkpoints", "0" * 32])
def test_what_only_mlflow_can_tell_is_left_open(models: Path, name: str) -> None:
    assert find_locally(name, str(models)) is None


def test_an_unknown_name_lists_what_there_is(models: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"there is no checkpoint second, .*which holds: new, old, 1e5\.ckpt$"):
        resolve_checkpoint("second", str(models))
    with pytest.raises(CheckpointError, match=r"; did you mean old\?$"):
        resolve_checkpoint("odl", str(models))
    with pytest.raises(CheckpointError, match="which holds none yet; train one"):
        resolve_checkpoint("second", str(tmp_path / "empty"))


@pytest.mark.parametrize("name", ["x" * 5000, "nul\0byte", "..", "/dev/null", "~"])
def test_what_cannot_be_a_file_is_refused_like_any_other_name(models: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        resolve_checkpoint(name, str(models))


def test_of_a_run_without_the_preferred_file_another_is_offered(models: Path) -> None:
    (models / "new" / "best.ckpt").unlink()
    with pytest.raises(CheckpointError, match=r"new has no best\.ckpt; name a file in it: .*new/last\.ckpt$"):
        resolve_checkpoint("new", str(models))


@pytest.mark.parametrize("name", ["0" * 32, "models:/cats@champion", "runs:/abc/checkpoints/best.ckpt"])
@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("http://127.0.0.1:9", r"no MLflow server answers at http://127\.0\.0\.1:9 \(Connection refused\)"),
        ("./mlruns", r"is a folder, and MLflow keeps no runs in folders"),
        ("databricks://secret", r"databricks://\.\.\. \(from MLFLOW_TRACKING_URI\) is a kind of store"),
        (None, r"there is no database mlruns/mlflow\.db here"),
    ],
)
def test_mlflow_that_is_away_is_told_at_once(
    name: str, uri: str | None, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    if uri is not None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    started = time.monotonic()
    with pytest.raises(CheckpointError, match=told):
        resolve_checkpoint(name)
    assert time.monotonic() - started < 10
    assert not list(tmp_path.iterdir())


def test_a_server_that_takes_a_connection_and_says_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{mute.getsockname()[1]}")
        with pytest.raises(CheckpointError, match=r"no MLflow server answers .* within 3 s"):
            resolve_checkpoint("0" * 32)


FETCH = """
import sys
from pathlib import Path
from cifar10.checkpoint_names import resolve_checkpoint
from cifar10.config import TrackingConfig
from cifar10.tracking import open_tracker
Path("models/run").mkdir(parents=True)
Path("models/run/best.ckpt").write_bytes(b"weights")
config = TrackingConfig(backend="mlflow", uri="sqlite:///mlruns/mlflow.db", artifacts=None, experiment="cifar10",
                        required=False, system_metrics=False, tensorboard=False)
tracker = open_tracker(config, Path("models/run"))
tracker.log_file(Path("models/run/best.ckpt"), "checkpoints")
tracker.finish("FINISHED")
for name in (tracker.run_id, f"runs:/{tracker.run_id}/checkpoints"):
    path = resolve_checkpoint(name, "elsewhere")
    assert path.read_bytes() == b"weights", path
    print(path)
"""


@pytest.mark.slow
def test_what_was_fetched_from_mlflow_is_removed_at_exit(tmp_path: Path) -> None:
    (tmp_path / "temporary").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path / "temporary")}
    out = subprocess.run(
        [sys.executable, "-c", FETCH], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    fetched = [Path(line) for line in out.stdout.splitlines()]
    assert [path.parts[: len(tmp_path.parts) + 1] for path in fetched] == [(*tmp_path.parts, "temporary")] * 2
    assert not [
        path for path in (tmp_path / "temporary").rglob("*") if path.suffix == ".ckpt" or "cifar10-" in path.name
    ]
