"""Which process it is, so that another one can tell later whether it is still alive, whatever was done to the clock."""

import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_SECONDS = 2  # within which a process id is not used again; the time of the boot is known to a second


def this_process() -> dict[str, Any]:
    """Return host, boot, process id, and start of this process: in seconds since the boot where Linux tells it."""
    return {"host": socket.gethostname(), "boot": _boot(), "pid": os.getpid(), "started": _started(psutil.Process())}


def is_alive(process: Mapping[str, Any]) -> bool | None:
    """Return whether a process that `this_process` has described is alive; None if it ran on another machine.

    A description that is damaged or of an earlier version is of no process that is alive.
    """
    if process.get("host") != socket.gethostname():
        return None
    try:
        difference = _started(psutil.Process(process["pid"])) - process["started"]
        return bool(process["boot"] == _boot() and abs(difference) < _SECONDS)
    except (psutil.Error, KeyError, TypeError, ValueError, OverflowError):
        return False


def _boot() -> str:
    with suppress(OSError):
        return _BOOT_ID.read_text().strip()
    return ""


def _started(process: psutil.Process) -> float:
    booted = psutil.boot_time() if _boot() else 0.0
    return process.create_time() - booted
