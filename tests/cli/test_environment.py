"""The program in unusual surroundings: help and mistakes are answered all the same, without a traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import commands
from cifar10.cli.checks import note_place, pin_checkpoint, require_place
from cifar10.config.conf_folder import PROJECT
from cifar10.errors import UsageError

PROGRAM = commands.__file__
BARE: dict[str, dict[str, str]] = {
    "empty": {},
    "without a home": {"PATH": os.environ["PATH"]},
    "with an empty home": {"HOME": ""},
    "in plain ASCII": {"LC_ALL": "C"},
    "in ASCII whatever Python thinks": {
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONIOENCODING": "ascii",
    },
}


def run(*words: str, env: dict[str, str] | None = None, before: str = "") -> tuple[int, str, str]:
    """Run the program from the shell, with `before` before it; return exit code, stdout and stderr."""
    done = subprocess.run(
        ["sh", "-c", f'{before}exec "$@"', "sh", sys.executable, PROGRAM, *words],
        env=env,
        capture_output=True,
        encoding="utf-8",
        timeout=110,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("surroundings", BARE)
def test_help_and_mistakes_need_no_environment(surroundings: str) -> None:
    env = BARE[surroundings]
    exit_code, out, err = run("infer", "--help", env=env)
    assert (exit_code, err) == (0, "")
    assert "usage:" in out
    assert run("infer", "--test_dir=фото", env=env)[::2] == (2, "error: --test_dir: there is no folder or file фото\n")


def test_without_a_home_a_path_in_it_is_refused() -> None:
    exit_code, _, err = run("infer", "--test_dir=~/x", env={"HOME": ""})
    assert exit_code == 2
    assert err.startswith(
        "error: --test_dir: no home folder is known for ~; a name that begins with ~ is written ./~/x"
    )


@pytest.mark.parametrize("words", [["config", "model=x"], ["train"], ["infer", "/"], ["evaluate", "best"], ["data"]])
def test_a_current_folder_that_is_gone_is_told(words: list[str], tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    exit_code, out, err = run(*words, before=f"cd {gone}; rmdir {gone}; ")
    assert (exit_code, out) == (2, "")
    assert err == "error: the current folder cannot be used (No such file or directory); cd to one that is there\n"


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["--version"]])
def test_help_does_without_a_current_folder(words: list[str], tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    assert run(*words, before=f"cd {gone}; rmdir {gone}; ")[0] == 0


def test_a_start_within_the_project_is_told_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(PROJECT / "docs")
    note_place()
    assert capsys.readouterr().err == (
        f"note: data, models and mlruns are those in {PROJECT / 'docs'}; for the project's: cd {PROJECT}\n"
    )


@pytest.mark.parametrize("place", [PROJECT, PROJECT.parent, Path("/")])
def test_a_start_elsewhere_is_nobodys_slip(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    note_place()
    assert capsys.readouterr().err == ""


def test_a_folder_that_may_not_be_looked_up_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "getcwd", refuse)
    with pytest.raises(UsageError, match=r"the current folder cannot be used \(Permission denied\)"):
        require_place()


def test_best_is_pinned_to_the_file_that_was_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("models/first").mkdir(parents=True)
    Path("models/first/best.ckpt").touch()
    assert pin_checkpoint("best") == "models/first/best.ckpt"
    assert capsys.readouterr().err.startswith("best is models/first/best.ckpt (unknown data), the newest run")
    assert pin_checkpoint("first") == "first"
    assert capsys.readouterr().err == ""
