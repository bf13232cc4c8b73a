"""The processes of a run: their number, the rank of this one, and their launcher.

Clusters, launchers and earlier commands set variables such as RANK, WORLD_SIZE, MASTER_ADDR and SLURM_NTASKS. They are
used only if a launcher has started this process as one of several; else they are ignored.
"""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import psutil

from cifar10.errors import UsageError
from cifar10.system.parent import end_with_parent

if TYPE_CHECKING:
    from cifar10.config.schema import TrainingConfig

_OURS = "CIFAR10_LAUNCHED_BY"  # the first process's id, in the environment of those that Lightning starts for it
_RANKS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "NODE_RANK")
_RENDEZVOUS = ("MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Processes:
    """The processes of a run."""

    launcher: Literal["none", "lightning", "torchrun", "srun"]
    """Starts the other processes: none for a single process; lightning when training begins; the others before it."""
    number: int
    """Number of processes on all machines."""
    rank: int
    """Rank of this process, from 0."""

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and prints messages."""
        return self.rank == 0

    @property
    def is_launched_by_lightning(self) -> bool:
        """Whether the first process has started this one."""
        return self.launcher == "lightning" and not self.is_first


def find_processes(training: "TrainingConfig") -> Processes:
    """Return the processes of a run with these settings.

    Raises:
        UsageError: A launcher has started another number of processes than the run has.
    """
    launched, number_on_machine = _launched()
    if launched is not None:
        _refuse_mismatch(launched, number_on_machine, training)
    elif training.num_nodes > 1:
        raise UsageError(
            f"training.num_nodes={training.num_nodes}: the processes on several machines are started by torchrun or "
            "srun; see docs/scaling.md"
        )
    if training.num_processes == 1:
        return Processes("none", 1, 0)
    return launched or Processes("lightning", training.num_processes, _rank_under_lightning())


def _launched() -> tuple[Processes | None, int | None]:
    """Return the processes that torchrun or srun has started, if any, and their number on each machine, if known."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        number, on_machine, rank = (_number(name) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "RANK"))
        if number is not None and rank is not None:
            return Processes("torchrun", number, rank), on_machine
    # A batch script has SLURM_NTASKS and SLURM_PROCID=0 as well, but it is no step.
    number, rank = _number("SLURM_STEP_NUM_TASKS"), _number("SLURM_PROCID")
    if number is None and rank:
        number = _number("SLURM_NTASKS")
    if number is None or rank is None or number == 1:
        return None, None
    return Processes("srun", number, rank), _number("SLURM_NTASKS_PER_NODE")


def _refuse_mismatch(launched: Processes, number_on_machine: int | None, training: "TrainingConfig") -> None:
    name, number = launched.launcher, launched.number
    total, per_machine = ("--ntasks", "--ntasks-per-node") if name == "srun" else ("--nproc-per-node",) * 2
    if training.num_processes == 1 < number:
        raise UsageError(
            f"{name} started {number} processes, and this run is one process: use {name} {total}=1, or let them share "
            f"the run, with training.devices for one machine's processes (and training.num_nodes): see docs/scaling.md"
        )
    if training.num_processes != number:
        raise UsageError(
            f"{name} started {number} processes, and training.devices={training.devices} with "
            f"training.num_nodes={training.num_nodes} makes {training.num_processes}; make them equal"
        )
    if number > 1 and number_on_machine != training.devices:
        raise UsageError(f"training.devices={training.devices} needs {name} {per_machine}={training.devices}")


def _rank_under_lightning() -> int:
    """Return LOCAL_RANK if Lightning has started this process for a run of ours, else 0."""
    launcher = _number(_OURS)
    if launcher is None or launcher == os.getpid():
        return 0
    if launcher == os.getppid():
        return _number("LOCAL_RANK") or 0
    if not psutil.pid_exists(launcher):
        raise UsageError(f"the process that has started this one has ended ({_OURS}={launcher})")
    return 0  # a process of that run has started another command


def prepare_launch(processes: Processes) -> None:
    """Mark the environment for the processes that Lightning will start; in these, end when the first process ends."""
    if processes.is_launched_by_lightning:
        end_with_parent()
    elif processes.launcher == "lightning":
        for name in (*_RANKS, *_RENDEZVOUS):
            os.environ.pop(name, None)
        os.environ[_OURS] = str(os.getpid())


def _number(name: str) -> int | None:
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() else None
