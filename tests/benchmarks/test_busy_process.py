"""Benchmarks beside a busy process: it works only while it should, and a result says that it was there."""

import os
import subprocess
import sys
import time
from pathlib import Path

import busy_process
import measuring
import psutil
import pytest

SCRIPT = Path(busy_process.__file__)


@pytest.mark.slow
@pytest.mark.parametrize("kind", busy_process.KINDS)
def test_it_takes_processor_time_only_while_it_should(kind: str) -> None:
    before = set(psutil.Process().children())
    process = busy_process.BusyProcess(kind, os.sched_getaffinity(0))
    try:
        (child,) = (
            each for each in set(psutil.Process().children()) - before if "spawn_main" in " ".join(each.cmdline())
        )

        def taken() -> float:
            started = child.cpu_times().user + child.cpu_times().system
            time.sleep(0.3)
            return float(child.cpu_times().user + child.cpu_times().system - started)

        assert taken() < 0.03  # it may run to the end of a time slice
        with process.working():
            assert taken() > 0.05  # on processors that other tests use, too
        assert taken() < 0.03  # it may run to the end of a time slice
    finally:
        process.end()
    assert not child.is_running()


def test_a_script_gets_its_own_arguments() -> None:
    done = subprocess.run(
        [sys.executable, SCRIPT, "computes", "start_up.py", "--help"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("usage: start_up.py")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "{computes,streams,thrashes} SCRIPT.py"),
        (["sleeps", "start_up.py"], "{computes,streams,thrashes} SCRIPT.py"),
        (["computes", "absent.py"], "there is no benchmark absent.py; name a file of benchmarks/"),
    ],
)
def test_a_wrong_line_is_told(words: list[str], said: str) -> None:
    done = subprocess.run([sys.executable, SCRIPT, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_its_result_is_named_after_it_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "RESULTS", tmp_path)
    monkeypatch.setattr(measuring, "_LOAD_AT_START", 0.0)
    alone = measuring.write_results("speed", "How fast?", [], {})
    monkeypatch.setattr(measuring, "neighbour", "streams")
    beside = measuring.write_results("speed", "How fast?", [], {})
    assert alone.name.startswith("speed_")
    assert beside.name.startswith("beside_streams_speed_")
    assert ", alone on the machine." in alone.read_text()
    assert ", beside a process that streams." in beside.read_text()
