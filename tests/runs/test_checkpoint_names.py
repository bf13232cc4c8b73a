"""A name finds the right file, or the refusal says what there is."""

import json
import os
import socket
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import yaml

from cifar10.config.conf_folder import PROJECT
from cifar10.errors import CheckpointError
from cifar10.runs.checkpoint_names import LAST, find_locally, name_of_run, refuse_damaged, resolve_checkpoint, which_run
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


def test_a_run_folder_that_may_not_be_read_is_named(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (models / "locked").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "locked")  # root may read every folder
    with pytest.raises(CheckpointError, match="locked cannot be read: Permission denied"):
        resolve_checkpoint("locked", str(models))


@pytest.mark.parametrize("name", ["x" * 5000, "nul\0byte", "..", "/dev/null", "~"])
def test_what_cannot_be_a_file_is_refused_like_any_other_name(models: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        resolve_checkpoint(name, str(models))


def test_of_a_run_without_the_preferred_file_another_is_offered(models: Path) -> None:
    (models / "new" / "best.ckpt").unlink()
    with pytest.raises(CheckpointError, match=r"new has no best\.ckpt; name a file in it: .*new/last\.ckpt$"):
        resolve_checkpoint("new", str(models))


def archive(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", b"0" * 1000)


def test_a_damaged_checkpoint_of_the_newest_run_is_refused_and_another_one_named(models: Path) -> None:
    refuse_damaged("best", str(models))  # none is whole: what is wrong is said where they are loaded
    for file in ("new/best.ckpt", "new/last.ckpt", "old/best.ckpt"):
        archive(models / file)
    refuse_damaged("best", str(models))
    os.utime(models / "old" / "best.ckpt", (0, 0))
    data = (models / "new" / "best.ckpt").read_bytes()
    for damaged in (b"", data[:-1], data.replace(b"000", b"001", 1)):
        (models / "new" / "best.ckpt").write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"new/best\.ckpt, .* is damaged; .*=.*new/last\.ckpt$"):
            refuse_damaged("best", str(models))
    (models / "new" / "last.ckpt").unlink()
    with pytest.raises(CheckpointError, match=r"--checkpoint_name=.*old/best\.ckpt$"):
        refuse_damaged("best", str(models))


def describe(run: Path, target: str, accuracy: float | None, root: str = "data") -> None:
    """Write what a run says of itself, as `train` does."""
    section = {"_target_": target, "root": root, "classes": None}
    (run / "config.yaml").write_text(yaml.safe_dump({"data_loading": section, "model": {"root": "x"}}, sort_keys=False))
    if accuracy is not None:
        scores = {"test/accuracy": accuracy - 0.01, "test/accuracy_tta": accuracy, "machine": {}}
        (run / "scores.json").write_text(json.dumps(scores))


CIFAR10, SHAPES, FOLDER = "cifar10.data.cifar.cifar10", "cifar10.data.shapes.shapes", "cifar10.data.folder.folder"


def test_which_run_is_best_is_said_with_its_data_and_accuracy(models: Path) -> None:
    describe(models / "new", SHAPES, 0.96)
    describe(models / "old", SHAPES, 0.5)
    assert which_run("best", str(models)) == [f"best is {models}/new/best.ckpt (shapes, 96.0%), the newest run"]
    assert which_run("last", str(models)) == [f"last is {models}/new/last.ckpt (shapes, 96.0%), the newest run"]


def test_the_newest_run_of_other_data_is_named(models: Path) -> None:
    describe(models / "new", SHAPES, 0.96)
    describe(models / "old", CIFAR10, 0.94)
    [_, note] = which_run("best", str(models))
    assert note == (
        f"note: {models}/old (cifar10, 94.0%) was trained on other data; "
        f"if that is meant: --checkpoint_name={models}/old"
    )


def test_two_folders_of_images_are_other_data(models: Path) -> None:
    describe(models / "new", FOLDER, 0.96, "data/cats")
    describe(models / "old", FOLDER, 0.94, "data/dogs")
    said, note = which_run("best", str(models))
    assert "(folder in data/cats, 96.0%)" in said
    assert "(folder in data/dogs, 94.0%)" in note


def test_a_run_that_is_not_finished_is_called_so(models: Path) -> None:
    describe(models / "new", SHAPES, None)
    describe(models / "old", SHAPES, 0.5)
    [said] = which_run("best", str(models))
    assert said.endswith("(shapes), the newest run, which is still training or was interrupted")


@pytest.mark.parametrize("name", ["new", "old/best.ckpt", "models:/x@y", "nothing", RUN_ID])
def test_of_a_name_that_is_plain_nothing_is_said(models: Path, name: str) -> None:
    assert which_run(name, str(models)) == []


def test_what_a_run_says_of_itself_may_be_missing_or_damaged(models: Path) -> None:
    assert "(unknown data)" in which_run("best", str(models))[0]
    (models / "new" / "config.yaml").write_bytes(b"data_loading: \xff\n")
    for content in ("[" * 100_000, "[1]", '{"test/accuracy": "high"}', '{"test/accuracy": null}'):
        (models / "new" / "scores.json").write_text(content)
        assert "(unknown data)" in which_run("best", str(models))[0]


def test_a_run_is_called_by_its_name_in_models_and_else_by_its_path(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(models.parent)
    assert name_of_run(Path("models/old")) == "old"
    assert name_of_run(models / "old") == "old"
    assert name_of_run(Path("elsewhere/old")) == "elsewhere/old"
    assert name_of_run(Path("models/best")) == "models/best"  # a run from when it could be called so


def test_a_refusal_names_the_folder_in_full_unless_it_is_the_projects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=f"no run in {tmp_path}/models/ has a best.ckpt"):
        find_locally("best")
    monkeypatch.chdir(PROJECT)
    with pytest.raises(CheckpointError, match=r"no run in no-such-folder/ has a best.ckpt; train one: .* models_dir="):
        find_locally("best", "no-such-folder")


def test_a_run_id_that_is_no_text_is_passed_over(models: Path) -> None:
    (models / "new" / "run_id").write_bytes(b"\xff\xfe")
    assert find_locally(RUN_ID, str(models)) == models / "old" / "best.ckpt"


@pytest.mark.parametrize("name", ["0" * 32, "models:/cats@champion", "runs:/abc/checkpoints/best.ckpt"])
@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("http://127.0.0.1:9", r"no MLflow server responds at http://127\.0\.0\.1:9 \(Connection refused\)"),
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


@pytest.mark.slow
def test_a_server_that_takes_a_connection_and_says_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{mute.getsockname()[1]}")
        with pytest.raises(CheckpointError, match=r"no MLflow server responds .* within 3 s"):
            resolve_checkpoint("0" * 32)


FETCH = """
import sys
from pathlib import Path
from cifar10.runs.checkpoint_names import resolve_checkpoint
from cifar10.config.schema import TrackingConfig
from cifar10.runs.tracking import open_tracker
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
