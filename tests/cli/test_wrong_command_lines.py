"""Command lines that cannot be meant: each is refused with a word on what to do, and starts nothing."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import commands
from cifar10.cli.command_line import main
from tests.cli.wrong_lines import WRONG, rows_of_page, shown, stand_ins, write_folder

PROGRAM = Path(commands.__file__)
MOST_LINES = 3


@pytest.fixture
def started() -> Iterator[list[str]]:
    """Stand-ins for the entry points, and the list of those that were started."""
    with stand_ins() as names:
        yield names


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with some images, a run and a file, from which the commands are given."""
    write_folder(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("line", WRONG)
def test_a_wrong_command_line_starts_nothing_and_says_what_to_do(
    line: str, folder: Path, started: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(folder.rglob("*"))
    exit_code = main(commands.COMMANDS, "", line.split(" "))
    said = capsys.readouterr()
    assert WRONG[line] in said.err
    assert shown(said.err, folder) == rows_of_page()[line], "to write the page again: python -m tests.cli.wrong_lines"
    assert exit_code == 2
    assert said.err.startswith("error: ")
    assert len(said.err.splitlines()) <= MOST_LINES
    assert max(map(len, said.err.splitlines())) <= 220  # two rows of a terminal
    assert "Traceback" not in said.err
    assert said.out == ""
    assert started == []
    assert sorted(folder.rglob("*")) == before


def test_many_wrong_settings_have_a_line_each(folder: Path, started: list[str], capsys: Any) -> None:
    settings = ["seed=-1", "training.epochs=0", "optimizer.lr=x", "modle=speed", "run_name=../x", "evaluation.tta=no"]
    assert main(commands.COMMANDS, "", ["train", *settings]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(settings)
    assert all(line.startswith("error: ") for line in lines)
    assert started == []


def test_words_that_are_not_utf8_are_refused_without_a_traceback(folder: Path) -> None:
    words = [b"train", b"models_dir=\xff", b"--\xff"]
    done = subprocess.run(
        [os.fsencode(sys.executable), os.fsencode(PROGRAM), *words], capture_output=True, timeout=110, check=False
    )
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr


def test_the_page_has_each_of_these_lines_and_no_other() -> None:
    assert rows_of_page().keys() == WRONG.keys()
    assert len(WRONG) >= 40


@pytest.mark.parametrize(
    "words",
    [
        ["promote=NAME"],
        ["evaluate", "--checkpoint_name=NAME"],
        ["evaluate", "NAME"],
        ["infer", "--test_dir", "NAME"],
        ["infer", "--test_dir=photos", "--checkpoint_name=first", "--device=NAME"],
        ["export", "first", "NAME"],
        ["verify", "NAME"],
        ["train", "weights=NAME"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("name", ["x\nerror: all is lost", "x\n", "\n"])
@pytest.mark.usefixtures("folder", "started")
def test_a_line_break_in_a_name_makes_no_further_line(
    words: list[str], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(commands.COMMANDS, "", [word.replace("NAME", name) for word in words]) == 2
    first, *others = capsys.readouterr().err.splitlines()
    assert first.startswith("error: ")
    assert all(line.startswith(("help: ", "commands: ")) for line in others) or name == "\n"
