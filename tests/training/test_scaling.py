"""Processes that torchrun has started on one machine, or on two, train what one process trains."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cifar10.config.compose import load_config
from cifar10.config.schema import TrainingConfig
from cifar10.data.shapes import shapes
from cifar10.errors import UserError
from cifar10.runs.run import open_run
from tests.tiny_run import TINY

COMMANDS = Path(__file__).parents[2] / "commands.py"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def start(torchrun: list[str], settings: list[str], folder: Path) -> "subprocess.Popen[str]":
    """Start processes of a run in `folder` as torchrun does.

    One thread each: left alone, a process takes its share of its machine, and sums of floats depend on their number.
    """
    settings = ["training.threads=1", *settings]
    command = [sys.executable, "-m", "torch.distributed.run", *torchrun, str(COMMANDS), "train", *TINY, *settings]
    local = {**os.environ, "GLOO_SOCKET_IFNAME": "lo"}
    return subprocess.Popen(command, cwd=folder, env=local, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def facts_of(folder: Path, name: str) -> dict[str, Any]:
    return dict(json.loads((folder / "models" / name / "scores.json").read_text()))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_processes_under_one_torchrun_or_under_two_end_alike(tmp_path: Path) -> None:
    port = free_port()
    shared = ["--master-addr=127.0.0.1", f"--master-port={port}"]
    one_node = start(["--nnodes=1", "--nproc-per-node=2", *shared], ["training.devices=2", "run_name=one"], tmp_path)
    said, _ = one_node.communicate()
    assert one_node.returncode == 0, said
    assert said.count("test accuracy") == 1
    nodes = [
        start(
            ["--nnodes=2", "--nproc-per-node=1", f"--node-rank={rank}", *shared],
            ["training.num_nodes=2", "run_name=two"],
            tmp_path,
        )
        for rank in range(2)
    ]
    outputs = [node.communicate()[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], outputs
    assert ["test accuracy" in output for output in outputs] == [True, False]
    assert facts_of(tmp_path, "one")["weights_digest"] == facts_of(tmp_path, "two")["weights_digest"]
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == ["one", "two"]


def test_a_batch_is_shared_by_the_processes_of_all_machines() -> None:
    training = load_config(["training.devices=2", "training.num_nodes=5", "training.batch_size=30"]).training
    assert training.num_processes == 10
    assert not training.chunked
    with pytest.raises(ValueError, match=r"batch_size=25 must be divisible by accumulate \* devices \* num_nodes = 10"):
        TrainingConfig.model_validate({**training.model_dump(), "batch_size": 25})


def test_processes_of_torchrun_must_be_told_the_runs_name(monkeypatch: pytest.MonkeyPatch) -> None:
    torchrun = {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1", "RANK": "1"}
    for name, value in torchrun.items():
        monkeypatch.setenv(name, value)
    config = load_config([*TINY, "training.num_nodes=2"])
    with pytest.raises(UserError, match="set run_name=NAME"):
        open_run(config, shapes(16, 60, 20, 30), precision="fp32")


def test_a_checkpoint_older_than_the_setting_is_of_one_machine() -> None:
    older = load_config().training.model_dump()
    del older["num_nodes"]
    assert TrainingConfig.model_validate(older).num_processes == 1
