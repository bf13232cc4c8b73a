"""What cannot be trained here is told in one line with the setting to lower; an unknown error keeps its traceback."""

import os
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from cifar10.cli.command_line import main
from cifar10.config.compose import load_config
from cifar10.errors import UserError
from cifar10.networks.resnet import ResNet
from cifar10.networks.speed import SpeedNet
from cifar10.system.shortage import is_peer_lost, shortage, told_if_short
from cifar10.train import train
from cifar10.training.preflight import refuse_untrainable
from tests.tiny_run import TINY


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)


ALLOCATOR = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 72000000000000 bytes. Error code 12"  # noqa: E501
CUDA = "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79 GiB of which 1 is free."


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError(ALLOCATOR), "memory ran out (72,000.0 GB were requested at once)"),
        (torch.OutOfMemoryError(CUDA), "memory ran out (21.5 GB were requested at once)"),
        (MemoryError("Unable to allocate 931. GiB for an array"), "memory ran out (999.7 GB were requested at once)"),
        (MemoryError(), "memory ran out"),
        (RuntimeError("Storage size calculation overflowed with sizes=[1, 2]"), "memory ran out"),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), "memory ran out"),
        (OSError(12, "Cannot allocate memory"), "memory ran out"),
        (RuntimeError("can't start new thread"), "the system allows no more threads or processes"),
    ],
)
def test_what_libraries_say_when_something_runs_out_is_understood(error: Exception, said: str) -> None:
    assert shortage(error) == said


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes do not match"), ValueError("out of memory"), OSError(2, "No such file"), KeyError(1)]
)
def test_any_other_error_stays_what_it_is(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, told_if_short("lower it"):
        raise error
    assert raised.value is error and not is_peer_lost(error)


def test_a_lost_process_of_the_run_is_told(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    text = "[/gloo/transport/tcp/pair.cc:545] Read error [127.0.0.1]:720: Connection reset by peer. Check the logs"

    def fail(*_: Any) -> None:
        raise RuntimeError(text)

    monkeypatch.setattr("cifar10.model.Classifier.test_step", fail)
    assert run() == 1
    assert re.search(
        r"^error: another process of this run has ended.*, after the last save; resume with: .* --resume=large$",
        capfd.readouterr().err,
        re.MULTILINE,
    )


def run(*words: str) -> int:
    from commands import COMMANDS

    tiny = [word for word in TINY if word.split("=")[0] not in {word.split("=")[0] for word in words}]
    return main(COMMANDS, "", ["train", *tiny, "run_name=large", *words])


def test_a_network_that_memory_cannot_hold_is_refused_before_a_folder_is_made(
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert run("model.width=1000000") == 1
    assert capfd.readouterr().err == (
        "error: memory ran out (72,000.0 GB were requested at once); lower model.width=1000000\n"
    )
    assert not Path("models").exists()


def test_a_network_whose_gradients_do_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cifar10.training.preflight.total_memory", lambda: 10_000)
    with pytest.raises(UserError, match=r"weights take .* GB here; lower model\.width=32"):
        train(load_config(TINY))


@pytest.mark.parametrize(
    ("function", "settings"),
    [
        ("cifar10.model.Classifier._loss", "training.batch_size=20 (or raise training.accumulate=1), data_loading"),
        ("cifar10.model.Classifier.test_step", "lower evaluation.batch_size="),
    ],
)
def test_out_of_memory_names_the_settings_of_what_was_going_on(
    function: str, settings: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError(ALLOCATOR)

    monkeypatch.setattr(function, fail)
    assert run() == 1
    assert re.search(rf"error: memory ran out \(72,000.0 GB .*{re.escape(settings)}", capfd.readouterr().err)


def test_too_little_memory_to_load_torch_is_one_line(tmp_path: Path) -> None:
    program = Path(__file__).parents[2] / "commands.py"
    done = subprocess.run(
        [sys.executable, str(program), "train", *TINY],
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (2**29, 2**29)),
        check=False,
    )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "memory ran out; give this process more: ulimit -v" in done.stderr


# -- batches of one ----------------------------------------------------------------------------------------------


def single(*overrides: str) -> None:
    config = load_config([*TINY[:-1], "tracking=none", "training.batch_size=1", *overrides])
    refuse_untrainable(ResNet(10, 8, depth=18, width=4), config, image_size=8, num_images=60)


def test_batches_of_one_that_cannot_be_normalised_are_refused_with_the_way_out() -> None:
    with pytest.raises(UserError, match=r"cannot with one; set training\.batch_size=2 or more"):
        single()


def test_parts_of_one_are_batches_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"training\.batch_size=2 is split into parts of one"):
        single("training.batch_size=2", "training.accumulate=2")


def test_batches_of_one_with_larger_maps_train_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    state = torch.get_rng_state()
    config = load_config([*TINY, "training.batch_size=1"])
    network = SpeedNet(10, 32, [4, 4, 4])
    before = {name: value.clone() for name, value in network.state_dict().items()}
    torch.set_rng_state(state)
    refuse_untrainable(network, config, image_size=32, num_images=60)
    assert "statistics of batch normalisation will be poor" in caplog.text
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
