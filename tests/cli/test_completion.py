"""Completion offers what can be typed, in the words of the shell that asks."""

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import commands
from cifar10.cli.completion import SCRIPTS, candidates
from cifar10.config.conf_folder import groups, options

PROGRAM = Path(commands.__file__)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("tra", ["train "]),
        ("train model=resnet3", ["model=resnet34 "]),
        ("train training.epo", ["training.epochs="]),
        ("train +training.epo", []),
        ("train tracking.tensorboard=", ["tracking.tensorboard=false ", "tracking.tensorboard=true "]),
        ("train data_loading.root=", []),  # files, which the shell knows
        ("sweep model=simple_cnn,spe", ["model=simple_cnn,speed"]),
        ("sweep sweep=teach", ["sweep=teaching"]),
        ("infer grouping=cats_v", ["grouping=cats_vs_dogs "]),
        ("evaluate --split=", ["--split=test ", "--split=train ", "--split=val "]),
        ("evaluate --split v", ["val "]),
        ("evaluate --corruptions=noise,fo", ["--corruptions=noise,fog"]),
        ("export --formats=onnx,saf", ["--formats=onnx,safetensors"]),
        ("infer --receipts --rec", []),  # given already
        ("infer --rece", ["--receipts "]),
        ("infer --test_dir=pho", []),
        ("compare fir", ["first "]),
        ("evaluate fir", ["first "]),
        ("train 'model=resnet3", ["model=resnet34 "]),
        ("nonsense mod", []),
        ("completion ", []),
    ],
)
def test_the_last_word_is_completed(
    line: str, expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models/first").mkdir(parents=True)
    assert candidates(commands.COMMANDS, f"python commands.py {line}") == expected


def test_commands_groups_and_options_are_all_offered() -> None:
    assert {*commands.COMMANDS} <= {word.strip() for word in candidates(commands.COMMANDS, "python commands.py ")}
    offered = candidates(commands.COMMANDS, "python commands.py train ")
    assert {f"{group}=" for group in groups()} <= {*offered}
    for group in groups():
        values = candidates(commands.COMMANDS, f"python commands.py train {group}=")
        assert [value.strip() for value in values] == [f"{group}={option}" for option in options(group)]


def test_an_answer_takes_no_longer_than_150_ms() -> None:
    times = []
    for _ in range(5):
        started = os.times()
        done = subprocess.run(
            [sys.executable, str(PROGRAM), "python commands.py train training.epo"],
            env={**os.environ, "CIFAR10_COMPLETE": "bash"},
            capture_output=True,
            text=True,
            check=True,
        )
        ended = os.times()
        times.append(sum(ended[2:4]) - sum(started[2:4]))  # of the processor, so that other work does not count
        assert done.stdout == "training.epochs=\n" and not done.stderr
    assert min(times) < 0.15


def typed(shell: list[str], setup: list[str], line: str, folder: Path) -> str:
    """Return what a terminal shows after `line` and Tab were typed."""
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(folder)
        os.environ.update(TERM="dumb", PS1="> ", HOME=str(folder))
        os.execvp(shell[0], shell)
    shown = b""

    def read(seconds: float) -> None:
        nonlocal shown
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if select.select([terminal], [], [], 0.1)[0]:
                shown += os.read(terminal, 4096)

    try:
        read(1)
        for command in setup:
            os.write(terminal, f"{command}\n".encode())
            read(1)
        shown = b""
        os.write(terminal, f"{line}\t".encode())
        end = time.monotonic() + 20
        while b"resnet34" not in shown and time.monotonic() < end:
            read(0.5)
    finally:
        os.kill(process, 9)
        os.waitpid(process, 0)
        os.close(terminal)
    return shown.decode(errors="replace")


SHELLS = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], []),
    "zsh": (["zsh", "-f", "-i"], ["autoload -Uz compinit; compinit -u"]),
    "fish": (["fish", "--no-config", "-i"], []),
}


@pytest.mark.slow
@pytest.mark.parametrize("shell", SHELLS)
def test_a_real_shell_completes_an_option(shell: str, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    words, setup = SHELLS[shell]
    script = tmp_path / "completion"
    script.write_text(SCRIPTS[shell].strip() + "\n")
    (tmp_path / "python").symlink_to(sys.executable)
    line = f"./python {os.path.relpath(PROGRAM, tmp_path)} train model=resnet3"
    assert "resnet34" in typed(words, [*setup, f"source {script}"], line, tmp_path)
