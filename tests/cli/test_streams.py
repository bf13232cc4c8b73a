"""Stderr may be full, closed or gone and nothing else suffers; a result that stdout does not take is told by exit 1."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image

ROOT = Path(__file__).parents[2]

PROGRAM = """
import logging, os, sys, warnings
from cifar10.cli.command_line import main

def work(path: str):
    for _ in range(2000):
        print("progress " * 5, file=sys.stderr, flush=True)
    warnings.warn("beware")
    logging.getLogger("x").warning("beware")
    with open(path, "w") as file:
        try:
            os.write(2, b"a library writes to descriptor 2\\n")
        except OSError:
            pass
        file.write("result " + str(file.fileno() > 2))
    print("done")

sys.exit(main({"work": work}, ""))
"""


def shell(redirections: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the program below with what a shell does to its streams."""
    (folder / "program.py").write_text(PROGRAM)
    return subprocess.run(
        ["sh", "-c", f'"$1" "$2" work "$3" {redirections}', "sh", sys.executable, "program.py", "result"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("redirections", ["2>/dev/full", "2>&-", "2>&- 0<&-", "0<&-", "2>/dev/null"])
@pytest.mark.parametrize("buffered", ["", "1"])
def test_without_stderr_or_stdin_everything_is_done(redirections: str, buffered: str, tmp_path: Path) -> None:
    done = shell(redirections, tmp_path, PYTHONUNBUFFERED=buffered)
    assert (done.returncode, done.stdout) == (0, "done\n")
    assert (tmp_path / "result").read_text() == "result True"


@pytest.mark.parametrize(
    ("redirections", "reason"),
    [(">/dev/full", "No space left on device"), ("1>&-", "Bad file descriptor"), ("0<&- 1>&-", "Bad file descriptor")],
)
def test_a_result_that_stdout_does_not_take_is_told_after_the_work(
    redirections: str, reason: str, tmp_path: Path
) -> None:
    done = shell(redirections, tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"error: {reason}: stdout was not written whole"
    assert (tmp_path / "result").read_text() == "result True"


def test_with_no_stream_at_all_the_exit_code_tells(tmp_path: Path) -> None:
    assert shell("0<&- 1>&- 2>&-", tmp_path).returncode == 1
    assert (tmp_path / "result").read_text() == "result True"


def test_a_terminal_that_goes_away_costs_its_lines_only(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "program.py", "work", "result"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=theirs,
    )
    os.close(theirs)
    os.read(ours, 10)
    os.close(ours)  # what is written from now on fails with EIO
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, b"done\n")


def test_a_pipe_that_somebody_has_made_non_blocking_is_waited_for(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM.replace('print("done")', 'print("line\\n" * 100_000)'))
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    process = subprocess.Popen(
        [sys.executable, "program.py", "work", "result"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=theirs,
        stderr=subprocess.DEVNULL,
    )
    os.close(theirs)
    with open(ours) as file:
        assert file.read().count("line") == 100_000
    assert process.wait(timeout=60) == 0


@pytest.mark.slow
@pytest.mark.parametrize("locale", [{"LC_ALL": "C"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}])
def test_names_beyond_ascii_are_the_same_in_any_locale(locale: dict[str, str], tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in ("\N{CAT}", "k\xf6ter"):
            folder = tmp_path / "s\xe9t" / split / name
            folder.mkdir(parents=True)
            for number in range(3):
                Image.new("RGB", (8, 8), (number, 0, len(name))).save(folder / f"{number}.png")
    words = ["data", "data_loading=folder", 'data_loading.root="s\xe9t"']
    done = subprocess.run(
        [sys.executable, str(ROOT / "commands.py"), *words],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", **locale},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert {"\N{CAT}", "k\xf6ter"} <= set(yaml.safe_load(done.stdout.decode())["images_per_class"])
