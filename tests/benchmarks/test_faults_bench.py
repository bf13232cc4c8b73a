"""The script of the fault bench: what it deletes, what it takes from before, and how it ends."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import faults
import pytest
from measuring import REPOSITORY

from cifar10.runs.provenance import code_state
from tests.faults.experiment import Experiment, Trial


def survive(number: int, _: Path) -> Iterator[Trial]:
    for index in range(number):
        yield Trial(f"fault {index}")


def fail(number: int, _: Path) -> Iterator[Trial]:
    yield Trial("fault", "it broke")
    yield from survive(number - 1, _)


def stop(_: int, folder: Path) -> Iterator[Trial]:
    (folder / "half.txt").write_text("half")
    raise KeyboardInterrupt
    yield


def run(monkeypatch: pytest.MonkeyPatch, folder: Path, *experiments: Experiment, words: tuple[str, ...] = ()) -> int:
    monkeypatch.setattr(faults, "EXPERIMENTS", experiments)
    monkeypatch.setattr(sys, "argv", ["faults.py", "--short", f"--folder={folder}", *words])
    return faults.main()


def experiment(name: str = "one", run: object = survive, control: object = None) -> Experiment:
    return Experiment("Z1", name, "All is well.", run, 3, 30, control)  # type: ignore[arg-type]


def test_a_fault_that_is_not_survived_or_a_control_that_notices_nothing_gives_exit_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, tmp_path / "a", experiment(control=fail)) == 0
    assert "| 3 | 3 | 1 of 5 noticed |" in capsys.readouterr().out
    assert run(monkeypatch, tmp_path / "b", experiment(run=fail)) == 1
    assert "- Z1, fault: it broke" in capsys.readouterr().out
    assert run(monkeypatch, tmp_path / "c", experiment(control=survive)) == 1


def test_what_was_found_is_taken_from_the_folder_unless_the_code_has_changed_or_the_file_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = ["1" * 40]
    monkeypatch.setattr(faults, "code_version", lambda: code[0])

    def was_read(*words: str) -> bool:
        assert run(monkeypatch, tmp_path / "kept", experiment(), words=words) == 0
        return "one: read from" in capsys.readouterr().err

    assert [was_read(), was_read()] == [False, True]
    code[0] += " with changes 2"
    assert [was_read("--any_code"), was_read(), was_read()] == [True, False, True]
    (tmp_path / "kept/one.short.json").write_text('{"row": "Z')
    assert [was_read(), was_read()] == [False, True]


def test_the_version_of_the_code_tells_changes_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if code_state()["git_commit"] is None:
        pytest.skip("this is no checkout")
    monkeypatch.setattr(faults, "_CODE", ("README.md",))
    whole, commit = faults.code_version(), code_state()["git_commit"]
    assert whole.startswith(commit)
    monkeypatch.setattr(faults, "code_state", lambda: {"git_commit": None, "code_digest": "3" * 64})
    assert faults.code_version() == f"digest {'3' * 64}"
    assert [faults.short(code) for code in (commit, f"{commit} with changes 12", f"digest {'3' * 64}")] == [
        commit[:7],
        f"{commit[:7]}, changed",
        "digest 3333333",
    ]


def test_files_of_others_are_not_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "mine/one"
    own.mkdir(parents=True)
    (own / "thesis.txt").write_text("precious")
    (tmp_path / "file").touch()
    places = [tmp_path / "mine", tmp_path / "file", Path("/proc/x"), REPOSITORY / "faults", ""]
    for place in places:
        with pytest.raises(SystemExit) as stopped:
            run(monkeypatch, place, experiment())  # type: ignore[arg-type]
        assert stopped.value.code == 2
        assert "argument --folder: " in capsys.readouterr().err.splitlines()[-1]
    assert (own / "thesis.txt").read_text() == "precious"
    assert not (REPOSITORY / "faults").exists()


def test_ctrl_c_keeps_what_is_finished_and_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, tmp_path / "kept", experiment("first"), experiment("second", stop)) == 130
    assert capsys.readouterr().err.splitlines()[-1].startswith("stopped; the same command continues")
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == [".fault_bench", "first.short.json"]
    assert len(json.loads((tmp_path / "kept/first.short.json").read_text())["trials"]) == 3


def test_a_mistyped_name_is_answered_with_one_that_exists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    named = experiment("killed_training"), experiment("soak")
    with pytest.raises(SystemExit):
        run(monkeypatch, tmp_path / "a", *named, words=("--only", "kiled_training"))
    assert "did you mean killed_training?" in capsys.readouterr().err
    assert run(monkeypatch, tmp_path / "a", *named, words=("--only", "killed training")) == 0
    assert "soak" not in capsys.readouterr().out
