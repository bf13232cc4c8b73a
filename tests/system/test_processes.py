"""One process is one process, whatever a cluster or an earlier command has left in the environment."""

import json
import os
import re
import shlex
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from lightning_utilities.core.rank_zero import rank_zero_only

from cifar10.config.compose import load_config
from cifar10.config.schema import TrainingConfig
from cifar10.errors import UsageError
from cifar10.system.processes import Processes, find_processes
from cifar10.train import train
from tests.tiny_run import TINY

ROOT = Path(__file__).parents[2]
SCALING = (ROOT / "docs" / "scaling.md").read_text()

BATCH_SCRIPT = {
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_NAME": "job",
    "SLURM_NTASKS": "4",
    "SLURM_NNODES": "1",
    "SLURM_NODEID": "0",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODELIST": "n1",
}
SRUN = {**BATCH_SCRIPT, "SLURM_STEP_NUM_TASKS": "4", "SLURM_NTASKS_PER_NODE": "4", "SLURM_PROCID": "2"}
TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "none",
    "WORLD_SIZE": "4",
    "LOCAL_WORLD_SIZE": "2",
    "RANK": "3",
    "LOCAL_RANK": "1",
    "GROUP_RANK": "1",
}
LEFT_OVER = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "nowhere", "MASTER_PORT": "1"}
MPI = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "1", "LSB_JOBID": "1", "JSM_NAMESPACE_RANK": "1"}


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*SRUN, *TORCHRUN, *LEFT_OVER, *MPI, "CIFAR10_LAUNCHED_BY"):
        monkeypatch.delenv(name, raising=False)


def setting(devices: int = 1, num_nodes: int = 1) -> TrainingConfig:
    return load_config(
        [f"training.devices={devices}", f"training.num_nodes={num_nodes}", "training.batch_size=80"]
    ).training


def found(environment: dict[str, str], training: TrainingConfig, monkeypatch: pytest.MonkeyPatch) -> Processes:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return find_processes(training)


@pytest.mark.parametrize(
    "environment",
    [{}, LEFT_OVER, BATCH_SCRIPT, MPI, {**SRUN, "SLURM_STEP_NUM_TASKS": "1"}, {**TORCHRUN, "WORLD_SIZE": "1"}],
)
def test_one_process_is_one_process(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(environment, setting(), monkeypatch) == Processes("none", 1, 0)


@pytest.mark.parametrize(
    ("environment", "devices", "num_nodes", "processes"),
    [
        (SRUN, 4, 1, Processes("srun", 4, 2)),
        (TORCHRUN, 2, 2, Processes("torchrun", 4, 3)),
        ({**SRUN, "SLURM_STEP_NUM_TASKS": "2", **TORCHRUN}, 2, 2, Processes("torchrun", 4, 3)),  # srun torchrun ...
        (LEFT_OVER, 2, 1, Processes("lightning", 2, 0)),
        (BATCH_SCRIPT, 2, 1, Processes("lightning", 2, 0)),
        ({**LEFT_OVER, "CIFAR10_LAUNCHED_BY": str(os.getppid())}, 2, 1, Processes("lightning", 2, 1)),
        ({**LEFT_OVER, "CIFAR10_LAUNCHED_BY": "1"}, 2, 1, Processes("lightning", 2, 0)),
    ],
)
def test_who_started_the_processes_of_a_run_decides_which_one_this_is(
    environment: dict[str, str], devices: int, num_nodes: int, processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert found(environment, setting(devices, num_nodes), monkeypatch) == processes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("environment", "devices", "num_nodes", "message"),
    [
        (SRUN, 1, 1, "srun started 4 processes, and this run is one process: use srun --ntasks=1"),
        ({**BATCH_SCRIPT, "SLURM_PROCID": "1"}, 1, 1, "srun started 4 processes, and this run is one process"),
        (TORCHRUN, 1, 1, "torchrun started 4 processes, and this run is one process: use torchrun --nproc-per-node=1"),
        (SRUN, 2, 1, "srun started 4 processes, and training.devices=2 with training.num_nodes=1 makes 2"),
        (TORCHRUN, 4, 1, "training.devices=4 needs torchrun --nproc-per-node=4"),
        ({**SRUN, "SLURM_NTASKS_PER_NODE": ""}, 4, 1, "training.devices=4 needs srun --ntasks-per-node=4"),
        ({}, 1, 2, "the processes on several machines are started by torchrun or srun"),
        ({"CIFAR10_LAUNCHED_BY": "999999999"}, 2, 1, "the process that has started this one has ended"),
    ],
)
def test_another_number_of_processes_than_the_run_has_is_refused(
    environment: dict[str, str], devices: int, num_nodes: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match=re.escape(message)) as refused:
        found(environment, setting(devices, num_nodes), monkeypatch)
    assert "\n" not in str(refused.value)


@pytest.mark.slow
@pytest.mark.parametrize("environment", [LEFT_OVER, BATCH_SCRIPT, MPI], ids=["rank", "slurm", "mpi"])
def test_a_run_among_left_over_variables_is_the_run_without_them(
    environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("cifar10.train.save_figures", lambda *arguments: None)
    torch.set_num_threads(1)
    short = [*TINY, "training.epochs=1"]
    train(load_config([*short, "run_name=plain"]))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(rank_zero_only, "rank", int(environment.get("RANK", 0)))  # as Lightning finds it on import
    train(load_config([*short, "run_name=among"]))
    assert vars(rank_zero_only)["rank"] == 0  # else TensorBoard's files would stay empty
    assert digest_of(tmp_path, "among") == digest_of(tmp_path, "plain")


def digest_of(folder: Path, name: str) -> str:
    return str(json.loads((folder / "models" / name / "scores.json").read_text())["weights_digest"])


# -- a cluster without SLURM -------------------------------------------------------------------------------------

FAKE_SRUN = """#!{python}
import os, subprocess, sys
options = dict(word.lstrip("-").split("=") for word in sys.argv[1:] if word.startswith("--"))
command = [word for word in sys.argv[1:] if not word.startswith("--")]
nodes = int(os.environ.get("SLURM_NNODES", options.get("nodes", 1)))
per_node = int(options.get("ntasks-per-node", os.environ.get("SLURM_NTASKS_PER_NODE", options.get("ntasks", 1))))
tasks = []
for rank in range(nodes * per_node):
    task = dict(
        os.environ,
        SLURM_JOB_ID="7", SLURM_NTASKS=str(nodes * per_node), SLURM_STEP_NUM_TASKS=str(nodes * per_node),
        SLURM_NTASKS_PER_NODE=str(per_node), SLURM_NNODES=str(nodes), SLURM_PROCID=str(rank),
        SLURM_LOCALID=str(rank % per_node), SLURM_NODEID=str(rank // per_node), SLURM_NODELIST="127.0.0.1",
    )
    tasks.append(subprocess.Popen(command, env=task))
sys.exit(max(task.wait() for task in tasks))
"""


@pytest.fixture
def cluster(tmp_path: Path) -> dict[str, str]:
    """Environment in which `srun` starts processes with SLURM's variables, and `python` is this one."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "srun").write_text(FAKE_SRUN.replace("{python}", sys.executable))
    (programs / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    for program in programs.iterdir():
        program.chmod(stat.S_IRWXU)
    path = f"{programs}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "MASTER_PORT": "29517"}


def small(line: str, name: str) -> str:
    """Return a documented line with what makes its run tiny."""
    line = re.sub(r"run_name=\S+", f"run_name={name}", line)
    return line.replace("commands.py", str(ROOT / "commands.py")) + " " + shlex.join([*TINY, "training.threads=1"])


def run_in_shell(line: str, folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", "-c", line], cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_tasks_of_srun_train_what_lightnings_own_processes_train(tmp_path: Path, cluster: dict[str, str]) -> None:
    [line] = [line for line in SCALING.splitlines() if line.startswith("srun --nodes")]
    line = line.replace("--nodes=2", "--nodes=1").replace("training.num_nodes=2", "training.num_nodes=1")
    line = line.replace("=8", "=2")
    done = run_in_shell(small(line, "srun"), tmp_path, cluster)
    assert (done.returncode, done.stdout.count("test accuracy")) == (0, 1), done.stderr
    own = run_in_shell(small("python commands.py train training.devices=2 run_name=own", "own"), tmp_path, cluster)
    assert own.returncode == 0, own.stderr
    assert digest_of(tmp_path, "srun") == digest_of(tmp_path, "own")
    beside = small("srun --ntasks=2 python commands.py train run_name=beside", "beside")
    refused = run_in_shell(beside, tmp_path, cluster)
    assert refused.returncode == 2 and "srun started 2 processes, and this run is one process" in refused.stderr
    assert not (tmp_path / "models" / "beside").exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_documented_job_saves_on_its_signal(tmp_path: Path, cluster: dict[str, str]) -> None:
    script = re.search(r":caption: job\.sh\n\n(.*?)```", SCALING, re.DOTALL)
    assert script is not None
    line = next(line for line in script[1].splitlines() if line.startswith("exec srun"))
    long = "training.epochs=40000 training.save_every_seconds=0.05 model.width=4"
    with subprocess.Popen(
        ["sh", "-c", f"{small(line, 'job')} {long}"], cwd=tmp_path, env=cluster, stderr=subprocess.PIPE, text=True
    ) as job:
        while not (tmp_path / "models" / "job" / "last.ckpt").exists():
            assert job.poll() is None
            time.sleep(0.05)
        children = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGUSR1)  # --signal goes to the tasks
        _, said = job.communicate(timeout=120)
    assert job.returncode == 138 and re.search(
        r"; resume with: \S*python\S* \S*commands\.py train --resume=job\n", said
    )
