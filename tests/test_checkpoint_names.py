"""A name finds the right file, or the refusal says what there is."""

import os
from pathlib import Path

import pytest

from cifar10.checkpoint_names import LAST, find_locally, resolve_checkpoint
from cifar10.errors import CheckpointError

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
