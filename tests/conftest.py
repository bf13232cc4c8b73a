"""What all tests share: no network, the same examples every time, and the real CIFAR files where they are at hand."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from filelock import FileLock

ROOT = Path(__file__).resolve().parent.parent
SHARED_DATA = ROOT.parent / "shared" / "data"

# Before anything heavy is imported, and for the processes that tests start.
os.environ.update(
    MPLBACKEND="Agg",
    MLFLOW_DISABLE_TELEMETRY="true",
    DO_NOT_TRACK="true",
    DVC_NO_ANALYTICS="true",
)
for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
    os.environ.pop(name, None)

# A shell starts what runs in its background with SIGINT ignored, `nohup` with SIGHUP; what tests start inherits that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# The same examples in every run; no deadline, since other work may share the processors.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse every connection that leaves this machine, so that a test which needs the network fails everywhere."""
    connect = socket.socket.connect

    def connect_nearby(self: socket.socket, address: Any) -> None:
        if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise OSError(f"tests are offline, and this one connects to {address[0]}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect_nearby)


@pytest.fixture(scope="session")
def real_data_root(request: pytest.FixtureRequest) -> Path:
    """Return a folder that holds the published CIFAR-10 and CIFAR-100 batches as torchvision lays them out.

    They are unpacked once and kept in pytest's cache; a later run only verifies them. Skips where they are not at hand.
    Read it, never write to it. Use it with the marker `real`.
    """
    if not (SHARED_DATA / "unpack.py").exists():
        pytest.skip("the real CIFAR files are not in ../shared/data")
    assert request.config.cache is not None
    folder = request.config.cache.mkdir("real_data")
    with FileLock(folder / "lock"):
        subprocess.run(
            [sys.executable, SHARED_DATA / "unpack.py", folder],
            check=True,
            stdin=subprocess.DEVNULL,
            capture_output=True,
        )
    return folder
