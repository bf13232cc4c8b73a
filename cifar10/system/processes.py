"""The processes of a run: their number, the rank of this one, and their launcher.

Clusters, launchers and earlier commands leave variables such as RANK, WORLD_SIZE, MASTER_ADDR and SLURM_NTASKS behind.
They count only where a launcher has really started this process as one of several; else they are ignored.
"""

import ctypes
import os
import signal
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from cifar10.errors import UsageError

if TYPE_CHECKING:
    from cifar10.config.schema import TrainingConfig

_OURS = "CIFAR10_LAUNCHED_BY"  # the first process's id, in the environment of those that Lightning starts for it
_LEFT_OVER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "NODE_RANK")
_RENDEZVOUS = ("MASTER_ADDR", "MASTER_PORT")
_PR_SET_PDEATHSIG = 1  # of prctl(2)


@dataclass(frozen=True)
class Processes:
    """The processes of a run."""

    launcher: Literal["nobody", "lightning", "torchrun", "srun"]
    """Who starts the others: nobody, since there are none; Lightning, once it trains; or who has started them all."""
    number: int
    """On all machines together."""
    rank: int
    """Of this process, from 0."""

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes and speaks."""
        return self.rank == 0

    @property
    def is_launched_by_lightning(self) -> bool:
        """Whether the first process has started this one."""
        return self.launcher == "lightning" and not self.is_first


@dataclass(frozen=True)
class _Launched:
    """What a launcher says of the processes that it has started."""

    launcher: Literal["torchrun", "srun"]
    number: int
    number_on_machine: int | None
    rank: int


def find_processes(training: "TrainingConfig") -> Processes:
    """Return the processes of a run with these settings.

    Raises:
        UsageError: A launcher has started another number of processes than the run has.
    """
    launched = _launched_by_torchrun() or _launched_by_srun()
    if launched is not None:
        _refuse_mismatch(launched, training)
        if training.num_processes > 1:
            return Processes(launched.launcher, launched.number, launched.rank)
    elif training.num_nodes > 1:
        raise UsageError(
            f"training.num_nodes={training.num_nodes}: the processes on several machines are started by torchrun or "
            "srun; see docs/scaling.md"
        )
    if training.num_processes == 1:
        return Processes("nobody", 1, 0)
    return Processes("lightning", training.num_processes, _rank_under_lightning())


def _launched_by_torchrun() -> _Launched | None:
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    number, on_machine, rank = (_number(name) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "RANK"))
    return None if number is None or rank is None else _Launched("torchrun", number, on_machine, rank)


def _launched_by_srun() -> _Launched | None:
    """Return what srun says; a batch script has SLURM_NTASKS and SLURM_PROCID=0 as well, but no step of its own."""
    number, rank = _number("SLURM_STEP_NUM_TASKS"), _number("SLURM_PROCID")
    if number is None and rank:
        number = _number("SLURM_NTASKS")
    if number is None or rank is None or number == 1:
        return None
    return _Launched("srun", number, _number("SLURM_NTASKS_PER_NODE"), rank)


def _refuse_mismatch(launched: _Launched, training: "TrainingConfig") -> None:
    name, number = launched.launcher, launched.number
    one_only = {"torchrun": "--nproc-per-node=1", "srun": "--ntasks=1"}[name]
    per_machine = {"torchrun": "--nproc-per-node", "srun": "--ntasks-per-node"}[name]
    if training.num_processes == 1 < number:
        raise UsageError(
            f"{name} started {number} processes, and this run is one process: use {name} {one_only}, or let them share "
            f"the run, with training.devices for one machine's processes (and training.num_nodes): see docs/scaling.md"
        )
    if training.num_processes != number:
        raise UsageError(
            f"{name} started {number} processes, and training.devices={training.devices} with "
            f"training.num_nodes={training.num_nodes} makes {training.num_processes}; make them equal"
        )
    if number > 1 and launched.number_on_machine != training.devices:
        raise UsageError(f"training.devices={training.devices} needs {name} {per_machine}={training.devices}")


def _rank_under_lightning() -> int:
    """Return LOCAL_RANK if Lightning has started this process for a run of ours, else 0: it is the first.

    Raises:
        UsageError: The process that has started this one is gone.
    """
    launcher = _number(_OURS)
    if launcher is None or launcher == os.getpid():
        return 0
    if launcher == os.getppid():
        return _number("LOCAL_RANK") or 0
    if not _is_alive(launcher):
        raise UsageError(f"the process that has started this one is gone ({_OURS}={launcher})")
    return 0  # a process of that run has started a command of its own


def prepare_launch(processes: Processes) -> None:
    """Let the processes that Lightning will start, and these alone, know where they belong; tie them to this one."""
    if processes.is_launched_by_lightning:
        _end_with_parent()
    elif processes.launcher == "lightning":
        for name in (*_LEFT_OVER, *_RENDEZVOUS):
            os.environ.pop(name, None)
        os.environ[_OURS] = str(os.getpid())


def _end_with_parent() -> None:
    """Have the kernel end this process when the one that has started it ends, however that comes about."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _number(name: str) -> int | None:
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() else None


def _is_alive(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
