"""The process that makes a trial, as it is written into the database; whether it has ended."""

import os
import socket
from collections.abc import Mapping
from typing import Any

import psutil


def this_process() -> dict[str, Any]:
    """Return host, time of its start, process id and time of creation of this process."""
    created = psutil.Process().create_time()
    return {"host": socket.gethostname(), "booted": psutil.boot_time(), "pid": os.getpid(), "created": created}


def has_ended(owner: Mapping[str, Any]) -> bool:
    """Return whether a process of this machine has ended; False for those of others, of which nothing is known."""
    here = this_process()
    try:
        if owner["host"] != here["host"]:
            return False
        if abs(owner["booted"] - here["booted"]) > 60:  # the machine was started again since; clocks are corrected
            return True
        created = psutil.Process(owner["pid"]).create_time()
        return bool(abs(created - owner["created"]) >= 1)
    except psutil.NoSuchProcess:
        return True
    except (psutil.Error, KeyError, TypeError, ValueError, OverflowError):
        return False
