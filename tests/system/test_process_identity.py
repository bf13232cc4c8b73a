"""Whether a process that was described is alive."""

import json
import subprocess
import sys

import psutil
import pytest

from cifar10.system.process_identity import is_alive, this_process

DESCRIBE = "import json; from cifar10.system.process_identity import this_process; print(json.dumps(this_process()))"


def test_a_process_is_alive_until_it_has_ended() -> None:
    assert is_alive(json.loads(json.dumps(this_process()))) is True
    ended = subprocess.run([sys.executable, "-c", DESCRIBE], capture_output=True, text=True, check=True)
    assert is_alive(json.loads(ended.stdout)) is False


def test_another_process_with_the_same_number_is_another_one() -> None:
    here = this_process()
    assert is_alive({**here, "started": here["started"] - 100}) is False
    assert is_alive({**here, "boot": "before"}) is False


@pytest.mark.skipif(not this_process()["boot"], reason="only Linux tells the start of processes since the boot")
def test_a_clock_that_is_set_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    here, booted, created = this_process(), psutil.boot_time(), psutil.Process().create_time()
    monkeypatch.setattr(psutil, "boot_time", lambda: booted + 3600)
    monkeypatch.setattr(psutil.Process, "create_time", lambda process: created + 3600)
    assert is_alive(here) is True


def test_nothing_is_known_of_processes_of_other_machines_and_damaged_ones_are_not_alive() -> None:
    here = this_process()
    assert is_alive({**here, "host": "elsewhere"}) is None
    assert is_alive({}) is None
    for damaged in ({"pid": 10**40}, {"pid": "x"}, {"started": "x"}, {"started": None}):
        assert is_alive({**here, **damaged}) is False
