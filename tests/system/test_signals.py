"""A signal ends the program by way of every `finally`, with one line and the exit code 128 + its number."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cifar10.cli.command_line import main
from cifar10.system.signals import ENDING, Stopped, held, if_stopped, listening, taken_by

ROOT = Path(__file__).parents[2]

PROGRAM = """
import os, subprocess, sys, time
from cifar10.cli.command_line import main
from cifar10.system.signals import if_stopped

def wait():
    with if_stopped("while waiting; nothing is lost"):
        try:
            print("ready", flush=True)
            time.sleep(60)
        finally:
            print("cleaned up", flush=True)

def wait_for_ever():
    try:
        wait()
    finally:
        time.sleep(60)

def ignore():
    print("ready", flush=True)
    time.sleep(0.5)

def killed_twice():
    try:
        subprocess.Popen(["sh", "-c", f"kill {os.getpid()}; sleep 0.2; kill {os.getpid()} || true"])
        time.sleep(60)
    finally:
        time.sleep(0.5)
        print("cleaned up", flush=True)

sys.exit(main({f.__name__: f for f in (wait, wait_for_ever, ignore, killed_twice)}, ""))
"""


def ignore_nothing() -> None:
    for number in ENDING:
        signal.signal(number, signal.SIG_DFL)


def start(command: str, *before: str, preexec_fn: Callable[[], object] = ignore_nothing) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*before, sys.executable, "-c", PROGRAM, command],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=preexec_fn,  # noqa: PLW1509 - no threads here
    )


def wait_until_ready(process: "subprocess.Popen[str]") -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"


@pytest.mark.parametrize("number", ENDING, ids=lambda number: signal.Signals(number).name)
def test_a_signal_unwinds_and_says_in_one_line_what_is_kept(number: signal.Signals) -> None:
    process = start("wait")
    wait_until_ready(process)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    name = "Ctrl-C" if number == signal.SIGINT else number.name
    assert (process.returncode, out, err) == (
        128 + number,
        "cleaned up\n",
        f"stopped by {name} while waiting; nothing is lost\n",
    )


@pytest.mark.slow
def test_a_second_signal_of_the_same_kind_ends_at_once_and_another_kind_does_not() -> None:
    process = start("wait_for_ever")
    wait_until_ready(process)
    process.send_signal(signal.SIGTERM)
    assert process.stdout is not None and process.stdout.readline() == "cleaned up\n"
    process.send_signal(signal.SIGHUP)
    time.sleep(1.2)  # what comes within a second of the first is an echo of it
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 143
    process.communicate()


def test_the_same_signal_twice_at_the_same_time_counts_once() -> None:
    """As `timeout` sends it: to the process, and to its group."""
    process = start("killed_twice")
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (143, "cleaned up\n", "stopped by SIGTERM\n")


def test_what_is_ignored_when_the_program_starts_stays_ignored() -> None:
    process = start("ignore", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))  # as nohup does
    wait_until_ready(process)
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=30) == 0
    process.communicate()


def _can_unshare() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "--pid", "--fork", "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not _can_unshare(), reason="needs the right to make a process namespace")
def test_process_1_of_a_container_can_be_terminated() -> None:
    """The kernel drops what process 1 has no handler for."""
    process = start("wait", "unshare", "--pid", "--fork", "--kill-child")
    wait_until_ready(process)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGTERM)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (143, "cleaned up\n")
    assert err == "stopped by SIGTERM while waiting; nothing is lost\n"


def send(number: signal.Signals = signal.SIGTERM) -> None:
    signal.raise_signal(number)


def test_a_short_block_can_let_a_signal_wait() -> None:
    done: list[str] = []

    def send_and_write() -> None:
        with listening(), held():
            send()
            done.append("written")

    with pytest.raises(Stopped) as stop:
        send_and_write()
    assert done == ["written"] and stop.value.code == 143


def test_a_block_can_take_the_signals_itself() -> None:
    taken: list[tuple[int, int]] = []
    with listening(), taken_by(lambda number, count: taken.append((number, count))):
        send()
    assert taken == [(signal.SIGTERM, 1)]


def test_the_innermost_word_on_what_is_kept_counts() -> None:
    with pytest.raises(Stopped) as stop, listening(), if_stopped("outer"), if_stopped("inner"):
        send()
    assert str(stop.value) == "stopped by SIGTERM inner"


def test_the_handlers_of_before_are_put_back() -> None:
    before = [signal.getsignal(number) for number in ENDING]
    with listening():
        assert signal.getsignal(signal.SIGTERM) not in before
    assert [signal.getsignal(number) for number in ENDING] == before


def test_what_the_signal_broke_on_its_way_up_is_not_told(capfd: pytest.CaptureFixture[str]) -> None:
    def break_down() -> None:
        try:
            send()
        finally:
            raise RecursionError("from a half-imported module")

    assert main({"go": break_down}, "", ["go"]) == 143
    assert capfd.readouterr().err == "stopped by SIGTERM\n"


def test_a_signal_that_a_library_swallowed_counts_where_the_next_part_begins() -> None:
    def swallow() -> None:
        with contextlib.suppress(BaseException):
            send()
        with if_stopped("before the next part"):
            raise AssertionError("went on")

    assert main({"go": swallow}, "", ["go"]) == 143


def test_in_another_thread_than_the_main_one_nothing_is_handled_and_nothing_fails() -> None:
    before, codes = signal.getsignal(signal.SIGTERM), []

    def command() -> None:
        with held(), taken_by(lambda number, count: None):
            codes.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=lambda: codes.append(main({"go": command}, "", ["go"])))
    thread.start()
    thread.join()
    assert codes == [before, 0]
