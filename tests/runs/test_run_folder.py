"""The folder of a run belongs to one run, and nobody else's files are touched."""

import itertools
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cifar10.files import write_text
from cifar10.runs.folder import FolderError, claim_existing, claim_new, read_settings
from cifar10.runs.record import RunRecord

_HOLDER = """
import sys, time
from pathlib import Path
from cifar10.files import write_text
from cifar10.runs.folder import claim_new

claim = claim_new(Path(sys.argv[1]), sys.argv[2], may_be_renamed=sys.argv[3] == "yes")
print(claim.path, flush=True)
time.sleep(60)
"""


def start_holder(models: Path, name: str, may_be_renamed: str = "no") -> "subprocess.Popen[str]":
    """Start a process that claims a folder and keeps it."""
    return subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(models), name, may_be_renamed], stdout=subprocess.PIPE, text=True
    )


def test_of_processes_that_want_a_name_at_once_one_gets_it_and_the_others_another(tmp_path: Path) -> None:
    holders = [start_holder(tmp_path, "run", "yes") for _ in range(3)]
    claimed = {holder.stdout.readline().strip() for holder in holders if holder.stdout is not None}
    assert claimed == {str(tmp_path / name) for name in ("run", "run-2", "run-3")}
    for holder in holders:
        holder.kill()
        holder.communicate()


def test_a_folder_in_use_is_refused_its_files_stay_and_it_is_free_once_its_process_is_gone(tmp_path: Path) -> None:
    holder = start_holder(tmp_path, "run")
    assert holder.stdout is not None and holder.stdout.readline()
    being_written = tmp_path / "run" / ".last.ckpt.0123456789ab.tmp"
    being_written.write_bytes(b"half")
    with pytest.raises(FolderError, match="another process is training in"):
        claim_new(tmp_path, "run", False)
    with pytest.raises(FolderError, match="another process is training in"):
        claim_existing(tmp_path / "run")
    assert being_written.exists()
    holder.kill()
    holder.communicate()
    claim_existing(tmp_path / "run").release()
    assert os.listdir(tmp_path / "run") == [".lock"]


def test_only_what_a_run_left_half_written_is_removed(tmp_path: Path) -> None:
    kept = [".mine.tmp", ".last.ckpt.tmp", "notes.txt", ".other.ckpt.0123.tmp", ".last.ckpt.0123.tmp.old", ".backup"]
    removed = [".last.ckpt.0123456789ab.tmp", ".best.ckpt.4711.tmp", ".scores.json.00ff.tmp"]
    claim_new(tmp_path, "run", False).release()
    for name in kept + removed:
        (tmp_path / "run" / name).write_text("x")
    claim_existing(tmp_path / "run").release()
    assert sorted(os.listdir(tmp_path / "run")) == sorted([".lock", *kept])


@pytest.mark.parametrize("name", ["config.yaml", "scores.json", "best.ckpt", "last.ckpt"])
def test_a_folder_with_files_of_that_name_that_no_run_here_has_made_is_refused_and_stays_as_it_is(
    name: str, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / name).write_text("mine")
    for _ in range(2):
        with pytest.raises(FolderError, match=f"already holds a run .{name}"):
            claim_new(tmp_path, "mine", False)
    assert os.listdir(tmp_path / "mine") == [name]
    claim = claim_new(tmp_path, "mine", may_be_renamed=True)
    assert claim.path == tmp_path / "mine-2"
    claim.release()


def test_an_empty_folder_and_one_of_a_run_that_saved_nothing_can_be_claimed(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    claim_new(tmp_path, "run", False).release()
    write_text(tmp_path / "run" / "config.yaml", "seed: 0")
    claim_new(tmp_path, "run", False).release()


def test_a_file_is_written_with_the_rights_that_others_have(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("x")
    write_text(tmp_path / "last.ckpt", "x")
    assert (tmp_path / "last.ckpt").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_scores_whose_checkpoints_were_deleted_are_not_overwritten(tmp_path: Path) -> None:
    claim_new(tmp_path, "run", False).release()
    (tmp_path / "run" / "scores.json").write_text("{}")
    with pytest.raises(FolderError, match="already holds a run"):
        claim_new(tmp_path, "run", False)


def test_settings_that_would_unfold_to_any_size_are_refused(tmp_path: Path) -> None:
    levels = [f"{name}: &{name} [{','.join(['*' + before] * 10)}]" for before, name in itertools.pairwise("abcdefghi")]
    (tmp_path / "config.yaml").write_text("\n".join(["a: &a [x, x]", *levels]))
    with pytest.raises(ValueError, match="refer to others"):
        read_settings(tmp_path)


@pytest.mark.parametrize("brackets", ["[", "{a: ", "- "])
def test_settings_that_would_take_any_time_are_refused_at_once(brackets: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(brackets * 100_000)
    started = time.process_time()
    with pytest.raises(ValueError, match="nested deeply"):
        read_settings(tmp_path)
    assert time.process_time() - started < 10


def test_a_record_that_is_nested_too_deep_is_none(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("[" * 100_000)
    assert RunRecord.of(tmp_path) is None
