"""Threads that wait sleep soon, unless the user wants something else."""

import os

import pytest

from cifar10.system.waiting_threads import let_waiting_threads_sleep


@pytest.mark.parametrize(
    ("policy", "spins", "expected"),
    [(None, None, "10000"), (None, "7", "7"), ("active", None, None), ("passive", None, None)],
)
def test_only_what_is_not_set_is_set(
    policy: str | None, spins: str | None, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"OMP_WAIT_POLICY": policy, "GOMP_SPINCOUNT": spins}
    for name, value in settings.items():
        monkeypatch.setenv(name, "")  # restored afterwards, also if it is set in between
        monkeypatch.delenv(name)
        if value is not None:
            monkeypatch.setenv(name, value)
    let_waiting_threads_sleep()
    assert os.environ.get("GOMP_SPINCOUNT") == expected
