"""`demo`: the whole job in one go, lines that can be typed, and nothing of the user's touched."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import cifar10.demo
import commands
from cifar10.cli.command_line import parse
from cifar10.config.compose import load_config
from cifar10.errors import UserError
from tests.tiny_run import TINY

USERS_FILES = ("data/demo/circle/mine.png", "data/demo/disk/0001.png", "data/demo/notes.txt")


@pytest.fixture
def tiny_demo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Make the demo's run tiny, and start it in a folder with a space in its name."""

    def load_tiny(overrides: list[str]) -> object:
        names = [override for override in overrides if override.startswith("run_name=")]
        return load_config([*TINY, "model.width=4", "tracking.uri=sqlite:///mlruns/mlflow.db", *names])

    monkeypatch.setattr(cifar10.demo, "load_config", load_tiny)
    folder = tmp_path / "my project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def advised_lines(screen: str) -> list[str]:
    """Return the lines to type from the demo's last screen."""
    place, *lines = screen.partition("Next, in ")[2].splitlines()
    assert shlex.split(place.removesuffix(":")) == [str(Path.cwd())]
    return [line.strip() for line in lines if not line.strip().startswith("#")]


def test_the_demo_does_the_whole_job_and_touches_nothing_of_the_users(
    tiny_demo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in USERS_FILES:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text("mine")
    cifar10.demo.demo()
    [folder] = Path("models").iterdir()
    screen = capsys.readouterr().out
    for name in ("best.ckpt", "scores.json", "curves.png", "predictions.csv"):
        assert f"{folder}/{name}" in screen and (folder / name).exists()
    rows = (folder / "predictions.csv").read_text().splitlines()
    assert len(rows) == 1 + 30 == 1 + len(list(Path("data", folder.name).glob("*/*.png")))
    assert all(Path(name).read_text() == "mine" for name in USERS_FILES)
    assert "(170 MB to fetch)" in screen

    browser, *program = advised_lines(screen)
    assert shutil.which(shlex.split(browser)[0]) and "sqlite:///mlruns/mlflow.db" in browser
    for line in program:
        python, script, *words = shlex.split(line)
        assert shutil.which(python) and Path(script).samefile(commands.__file__)
        assert parse(commands.COMMANDS, words).command.__name__ == words[0]


def test_demos_that_begin_in_the_same_second_have_folders_of_their_own(tiny_demo: Path) -> None:
    folders = [cifar10.demo._new_folder(Path("data")) for _ in range(3)]
    assert len(set(folders)) == 3 and all(re.fullmatch(r"data/demo-\d{8}-\d{6}(-[23])?", str(f)) for f in folders)


def test_a_folder_that_cannot_be_made_is_said_in_full(tiny_demo: Path) -> None:
    Path("data").write_text("a file")
    with pytest.raises(UserError, match=f"{re.escape(str(tiny_demo))}/data/demo-.*cannot be made"):
        cifar10.demo.demo()


@pytest.mark.slow
def test_each_line_of_the_last_screen_works_when_typed(tiny_demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cifar10.demo.demo()
    browser, config, _, infer = advised_lines(capsys.readouterr().out)
    for line in (f"{browser} --help", config, infer):
        done = subprocess.run(line, shell=True, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}\n{done.stderr}"


def test_a_program_of_the_environment_is_named_relative_to_the_folder_where_one_stands(
    tiny_demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tiny_demo / ".venv" / "bin" / "python"))
    assert cifar10.demo._beside_python("mlflow") == ".venv/bin/mlflow"
