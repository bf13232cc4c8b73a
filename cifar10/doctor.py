"""Entry point of `doctor`: look at what the program needs from this machine, and say how to mend what is wrong."""

import importlib.metadata
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cifar10.config.advice import PROGRAM, command_line
from cifar10.config.conf_folder import PROJECT
from cifar10.errors import UserError, first_line
from cifar10.runs.provenance import processor

if TYPE_CHECKING:  # packages that may be missing are imported by the check that needs them
    from cifar10.config.schema import Config

State = Literal["ok", "note", "fault"]

_GIGABYTE = 2**30
_LEAST_MEMORY, _LEAST_DISK = 4 * _GIGABYTE, 2 * _GIGABYTE  # the default recipe takes 3.4 GB; a run writes 0.1 GB
_NEWEST, _OLDEST = (3, 13), (3, 11)
_PORTS = {
    5000: "mlflow ui --port=5001",
    6006: "tensorboard --port=6007",
    8000: f"{PROGRAM} serve --port=8001",
    8501: f"{PROGRAM} app --port=8502",
}
"""Port that a page is served at by default -> what to type if it is taken."""
_EXTRAS = {"tensorboard": "tensorboard>=2.18", "ray": "ray[client,data]>=2.60", "timm": "timm>=1.0.20"}
_DEFAULT_NETWORK = "cifar10.networks.speed.SpeedNet"
_INSTALL = f"{sys.executable} -m pip install"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    subject: str
    state: State
    text: str
    remedy: str = ""
    """What to type, if something is wrong."""


def doctor(config: "Config | None", overrides: Sequence[str] = ()) -> bool:
    """Print what was found, a line each with the remedy below, and return whether nothing is wrong.

    Args:
        config: Its data, folders and tracking are looked at; None: packages are missing that it is made with.
        overrides: With which it was made, for lines to type.
    """
    checks: list[Callable[[], Iterator[Finding]]] = [_python, _packages]
    if config is not None:
        words = [word for word in overrides if word.startswith("data_loading")]
        checks += [_processors, _memory, lambda: _folders(config), lambda: _data(config, words)]
        checks += [lambda: _tracking(config)]
    checks.append(_ports)
    findings = []
    for check in checks:
        for finding in check():
            findings.append(finding)
            print(f"{finding.state:<6} {finding.subject:<9} {finding.text}")
            if finding.remedy:
                print(f"{'':<16} -> {finding.remedy}")
            sys.stdout.flush()
    faults = sum(finding.state == "fault" for finding in findings)
    print("nothing is wrong" if not faults else f"{faults} to mend: each -> is the line to type")
    return not faults


def _python() -> Iterator[Finding]:
    version = platform.python_version()
    where = "in a virtual environment" if sys.prefix != sys.base_prefix else "not in a virtual environment"
    if not _OLDEST <= sys.version_info[:2] <= _NEWEST:
        text = f"{version} does not fit; 3.{_OLDEST[1]} to 3.{_NEWEST[1]} do"
        yield Finding("Python", "fault", text, f"PYTHON=python3.{_OLDEST[1]} sh scripts/setup")
    else:
        yield Finding("Python", "ok", f"{version}, {where}")


def _packages() -> Iterator[Finding]:
    needed = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    wrong = [problem for requirement in needed if (problem := _problem_of(requirement)) is not None]
    everything = f"{_INSTALL} -r {PROJECT / 'requirements.txt'}"
    for problem in wrong:
        yield Finding("packages", "fault", problem, everything)
    conflicts = _conflicts()
    for conflict in conflicts[:5]:
        yield Finding("packages", "fault", conflict, everything)
    if not wrong and not conflicts:
        shown = ", ".join(f"{name} {_version_of(name)}" for name in ("torch", "torchvision", "mlflow"))
        yield Finding("packages", "ok", f"{len(needed)} as needed: {shown} and others")
    for name, requirement in _EXTRAS.items():
        if _version_of(name) is None:
            yield Finding("packages", "note", f"{name} is not installed; it is optional", f"{_INSTALL} '{requirement}'")


def _problem_of(requirement: str) -> str | None:
    """Return what is wrong with the installed version of a requirement such as `hydra-core>=1.3.8,<1.4`."""
    name = re.match(r"[\w.-]+", requirement)
    assert name is not None
    installed = _version_of(name[0])
    if installed is None:
        return f"{name[0]} is not installed"
    for sign, bound in re.findall(r"(>=|<)\s*([\d.]+)", requirement):
        is_least = sign == ">="
        if (_numbers(installed) >= _numbers(bound)) != is_least:
            return f"{name[0]} {installed} is too {'old' if is_least else 'new'}: {requirement} is needed"
    return None


def _version_of(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    numbers = [int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:4]]
    return tuple(numbers + [0] * (4 - len(numbers)))


def _conflicts() -> list[str]:
    """Return packages whose own requirements are not met, a line each."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "check"], capture_output=True, text=True, timeout=120, check=False
    )
    if done.returncode == 0:
        return []
    return [line for line in done.stdout.splitlines() if " requires " in line or " has requirement " in line]


def _processors() -> Iterator[Finding]:
    from cifar10.system.limits import num_cpus

    found = processor()
    text = f"{found['cpu']}, {num_cpus()} of {found['cores']} cores for this process"
    yield Finding("CPU", "ok", f"{text}; {', '.join(found['flags']) or 'no vector instructions that are known here'}")
    try:
        import torch

        from cifar10.devices import fastest_precision
    except ImportError as error:
        reinstall = f"{_INSTALL} --force-reinstall -r {PROJECT / 'requirements.txt'}"
        yield Finding("PyTorch", "fault", f"cannot be imported: {first_line(error)}", reinstall)
        return
    precision = fastest_precision(torch.device("cpu"), with_kernels=True, target=_DEFAULT_NETWORK)
    yield Finding("CPU", "ok", f"trains the default network in {precision}")
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            memory = torch.cuda.get_device_properties(number).total_memory / _GIGABYTE
            yield Finding("GPU", "ok", f"{torch.cuda.get_device_name(number)}, {memory:.0f} GB")
    elif shutil.which("nvidia-smi") is not None:
        reason = "PyTorch was built without CUDA" if torch.version.cuda is None else "its driver is too old for PyTorch"
        yield Finding("GPU", "fault", f"there is one, and PyTorch cannot use it: {reason}", "nvidia-smi")
    else:
        yield Finding("GPU", "note", "none; training runs on the CPU")


def _memory() -> Iterator[Finding]:
    from cifar10.system.limits import available_memory, total_memory

    free, total = available_memory(), total_memory()
    text = f"{free / _GIGABYTE:.1f} of {total / _GIGABYTE:.1f} GB free"
    if free < _LEAST_MEMORY:
        remedy = command_line("train", "training.batch_size=500")
        yield Finding("memory", "fault", f"{text}; the default recipe takes 3.4 GB; close other programs, or", remedy)
    else:
        yield Finding("memory", "ok", text)


def _folders(config: "Config") -> Iterator[Finding]:
    from cifar10.config.mlflow_uri import database_path

    database = database_path(config.tracking.uri)
    places = {"data": "data_loading.root=DIR", config.models_dir: "models_dir=DIR", tempfile.gettempdir(): "TMPDIR=DIR"}
    if database is not None and config.tracking.backend != "none":
        places[str(database.parent)] = "tracking.uri=sqlite:///FILE"
    for folder, remedy in places.items():
        path = Path(folder).absolute()
        existing = next(parent for parent in (path, *path.parents) if parent.exists())
        free = shutil.disk_usage(existing).free
        if not os.access(existing, os.W_OK | os.X_OK):
            yield Finding("disk", "fault", f"{existing} cannot be written; name another folder", remedy)
        elif free < _LEAST_DISK:
            text = f"{free / _GIGABYTE:.1f} GB free in {existing}; delete something, or name another folder"
            yield Finding("disk", "fault", text, remedy)
        else:
            yield Finding("disk", "ok", f"{free / _GIGABYTE:.0f} GB free for {folder}")


def _data(config: "Config", words: Sequence[str]) -> Iterator[Finding]:
    """Read the data, verify what has published hashes, and download nothing."""
    from cifar10.config.build import build
    from cifar10.config.targets import DATA
    from cifar10.data.archives import without_fetching

    try:
        with without_fetching():
            data = build(DATA, config.data_loading)
    except UserError as error:
        is_published = config.data_loading.target.startswith("cifar10.data.cifar.")
        yield Finding("data", "fault", first_line(error), command_line("data", *words) if is_published else "")
    else:
        sizes = ", ".join(f"{len(split):,} {name}" for name, split in data.splits.items())
        yield Finding("data", "ok", f"{data.name}: {sizes}, SHA-256 {data.digest[:12]}")


def _tracking(config: "Config") -> Iterator[Finding]:
    from cifar10.config.mlflow_uri import shown_uri
    from cifar10.runs.mlflow_store import StoreError, probe

    if config.tracking.backend == "none":
        yield Finding("tracking", "note", "runs are not recorded: tracking=none")
        return
    try:
        probe(config.tracking.uri)
    except StoreError as error:
        local = re.fullmatch(r"https?://(?:127\.0\.0\.1|localhost):(\d+)/?", config.tracking.uri)
        remedy = f"mlflow server --port={local[1]}" if local else ""
        yield Finding("tracking", "fault", f"{error}; until it responds, runs are kept for sync", remedy)
    else:
        yield Finding("tracking", "ok", f"MLflow at {shown_uri(config.tracking.uri)}")


def _ports() -> Iterator[Finding]:
    for port, remedy in _PORTS.items():
        with socket.socket() as connection:
            connection.settimeout(1)
            if connection.connect_ex(("127.0.0.1", port)) == 0:
                yield Finding("port", "note", f"{port} is taken by another program", remedy)
            else:
                yield Finding("port", "ok", f"{port} is free")
