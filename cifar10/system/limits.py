"""Limits of memory and processors of this process: of the machine, its container or its job.

Linux keeps such limits in control groups (https://docs.kernel.org/admin-guide/cgroup-v2.html). Python, psutil and
PyTorch report memory and processors of the whole machine.
"""

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import psutil

CPUS = "CIFAR10_CPUS"
"""Environment variable with the number of processors that a scheduler has reserved for this process."""

_ROOT = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")
_MEMORY = (  # of version 2 and 1: the limit, the memory in use, and the key of its part that can be freed at once
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def total_memory() -> int:
    """Return the bytes of memory that this process may use: the least of the machine's and its groups' limits."""
    return min([int(psutil.virtual_memory().total), *(limit for limit, _ in _memory_groups())])


def available_memory() -> int:
    """Return the bytes of free memory: the least of the machine's, its groups' and that within `ulimit -v` and `-d`."""
    left = [int(psutil.virtual_memory().available), *(limit - used for limit, used in _memory_groups())]
    own = psutil.Process().memory_info()
    used_of = {resource.RLIMIT_AS: own.vms, resource.RLIMIT_DATA: getattr(own, "data", 0)}
    for kind, used in used_of.items():
        most, _ = resource.getrlimit(kind)
        if most != resource.RLIM_INFINITY:
            left.append(most - used)
    return max(0, min(left))


def num_cpus() -> int:
    """Return the number of processors that this process may use, at least 1; a quota of 2.5 is 2."""
    reserved = os.environ.get(CPUS, "")
    counts = [int(reserved)] if reserved.isdecimal() else []
    counts += [len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1]
    for folder in _groups("cpu"):
        quota, _, period = (_text(folder / "cpu.max") or "").partition(" ")
        if not period:  # version 1
            quota, period = _text(folder / "cpu.cfs_quota_us") or "", _text(folder / "cpu.cfs_period_us") or ""
        if quota.isdecimal() and period.isdecimal() and int(period):
            counts.append(int(quota) // int(period))
    return max(1, min(counts))


def _memory_groups() -> Iterator[tuple[int, int]]:
    """Yield the memory limit and the memory in use, without page cache, of each control group of this process."""
    for folder in _groups("memory"):
        for limit_name, used_name, key in _MEMORY:
            limit, used = _text(folder / limit_name), _text(folder / used_name)
            if limit is None or used is None or not (limit.isdecimal() and used.isdecimal()):
                continue
            entries = dict(line.split() for line in (_text(folder / "memory.stat") or "").splitlines())
            yield int(limit), int(used) - int(entries.get(key, 0))


def _groups(controller: str) -> Iterator[Path]:
    """Yield the folders of the control groups of this process: its own and their parents."""
    for line in (_text(_OWN_GROUPS) or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = _ROOT / controller if controllers else _ROOT
        folder = top / path.strip("/")
        yield from (group for group in (folder, *folder.parents) if group.is_relative_to(top))


def _text(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None
