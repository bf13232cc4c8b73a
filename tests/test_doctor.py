"""`doctor` names each fault of a machine with the line that mends it."""

import collections
import importlib.metadata
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import cifar10.doctor
from cifar10.cli.command_line import main
from commands import COMMANDS
from tests.tiny_cifar import make_tiny_cifar10

SHAPES = ("data_loading=shapes", "tracking=none")


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("cifar10.doctor._conflicts", list)  # pip takes seconds; it has a test of its own
    monkeypatch.setattr("cifar10.doctor._PORTS", {})


def doctor(capsys: pytest.CaptureFixture[str], *words: str, code: int) -> list[str]:
    assert main(COMMANDS, "", ["doctor", *words]) == code
    return capsys.readouterr().out.splitlines()


def test_a_sound_machine_has_no_fault(capsys: pytest.CaptureFixture[str]) -> None:
    told = doctor(capsys, *SHAPES, code=0)
    assert told[-1] == "nothing is wrong" and not [line for line in told if line.startswith("fault")]
    assert {"Python", "packages", "CPU", "memory", "disk", "data"} <= {line.split()[1] for line in told[:-1]}
    assert not list(Path().iterdir())  # it only looks


def test_missing_data_are_told_with_the_line_that_fetches_them(capsys: pytest.CaptureFixture[str]) -> None:
    told = doctor(capsys, "data_loading=cifar100", "data_loading.root=nowhere", "tracking=none", code=1)
    place = next(number for number, line in enumerate(told) if line.startswith("fault"))
    assert "cifar-100-python is not in nowhere, or incomplete" in told[place]
    assert told[place + 1].endswith("-> python commands.py data data_loading=cifar100 data_loading.root=nowhere")
    assert told[-1].startswith("1 to mend")


def test_changed_data_are_told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    make_tiny_cifar10(Path("data"), monkeypatch)
    doctor(capsys, "tracking=none", "data_loading.validation_size=0", code=0)
    file = next(Path("data").rglob("data_batch_1"))
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    told = doctor(capsys, "tracking=none", "data_loading.validation_size=0", code=1)
    assert any(line.startswith("fault  data") for line in told)


def test_packages_that_are_missing_or_too_old_are_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name == "optuna":
            raise importlib.metadata.PackageNotFoundError(name)
        return {"hydra-core": "1.4.0.dev1", "numpy": "1.26.4"}.get(name) or real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    told = "\n".join(doctor(capsys, *SHAPES, code=1))
    assert "optuna is not installed" in told and "numpy 1.26.4 is too old: numpy>=2.0 is needed" in told
    assert "hydra-core 1.4.0.dev1 is too new: hydra-core>=1.3.8,<1.4 is needed" in told
    assert told.count("pip install -r") == 3 and "3 to mend" in told


def test_conflicts_of_packages_are_those_that_pip_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    text = "torchvision 0.29.2 has requirement torch==2.15.0, but you have torch 2.11.0.\nNo problem here."
    done = subprocess.CompletedProcess([], 1, stdout=text)
    monkeypatch.setattr("cifar10.doctor.subprocess.run", lambda *_, **__: done)
    assert cifar10.doctor._conflicts() == [text.splitlines()[0]]


def test_little_memory_and_a_full_disk_are_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**12, 10**12, 10**8))
    monkeypatch.setattr("cifar10.system.limits.available_memory", lambda: 2**30)
    told = "\n".join(doctor(capsys, *SHAPES, code=1))
    assert "0.1 GB free in" in told and "-> models_dir=DIR" in told
    assert "1.0 of" in told and "training.batch_size=500" in told


def test_an_unreachable_server_and_a_port_that_is_taken_are_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setattr("cifar10.doctor._PORTS", {port: "mlflow ui --port=5001"})
        told = doctor(capsys, "data_loading=shapes", "tracking.uri=http://127.0.0.1:9", code=1)
    assert any(line.startswith("fault  tracking") and "127.0.0.1:9" in line for line in told)
    place = told.index(f"note   port      {port} is taken by another program")
    assert told[place + 1].endswith("-> mlflow ui --port=5001")
    monkeypatch.setattr("cifar10.doctor._PORTS", {port: "mlflow ui --port=5001"})
    assert f"ok     port      {port} is free" in doctor(capsys, *SHAPES, code=0)


def test_it_works_where_packages_are_missing() -> None:
    missing = ("hydra", "omegaconf", "pydantic", "psutil", "torch", "yaml")
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({missing})); from cifar10.commands.data import doctor; doctor()"
    )
    root = Path(cifar10.doctor.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(root)!r}); {code}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "ok     Python" in done.stdout and "Traceback" not in done.stderr, done.stderr
