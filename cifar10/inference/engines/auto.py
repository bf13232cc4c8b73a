"""The fastest engine for a model on this machine: measured once, then remembered.

What was measured is kept in the user's cache folder (XDG_CACHE_HOME, else ~/.cache), in cifar10/engines, one JSON file
for each model, machine and set of versions. Delete it to measure again.

An engine that does not compute in float32 must be a fifth faster than those that do: less is not worth other answers.
"""

import hashlib
import json
import logging
import math
import os
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

from cifar10.config.conf_folder import content_of
from cifar10.errors import UserError
from cifar10.files import cache_folder, file_sha256, read_file, write_text
from cifar10.inference.description import LoadedModel
from cifar10.inference.engines import exported_files, load_model
from cifar10.inference.engines.measuring import BATCH_SIZES, Measured, measure
from cifar10.runs.provenance import processor
from cifar10.system.limits import num_cpus
from cifar10.types import Length

_LOGGER = logging.getLogger(__name__)
_PACKAGES = ("torch", "onnxruntime", "llvmlite", "numpy")
_GAIN = 1.2
"""How many times as fast as float32 an engine of another precision must be."""


def load(
    path: Path,
    device: str = "auto",
    batch_size: int | None = None,
    candidates: Annotated[list[str], Length(1, 20)] = ["torch", "onnx", "native", "onnx_int8", "native_int8"],  # noqa: B006
) -> LoadedModel:
    """Load a model with the fastest engine.

    Args:
        path: A checkpoint; an ONNX file is computed by ONNX Runtime.
        device: auto, cpu, cuda or cuda:N. On a GPU, PyTorch computes.
        batch_size: 1 takes the engine with the lowest latency; None and others, that with the highest throughput.
        candidates: Names of files in `conf/engine/`.

    Raises:
        UserError: No engine can compute the model here.
    """
    if path.suffix == ".onnx":
        return load_model("onnx", path, device)
    if device.startswith("cuda") or (device == "auto" and _has_gpu()):
        return load_model("torch", path, device)
    measured = measured_engines(path, candidates)
    name = fastest(measured, BATCH_SIZES[0] if batch_size == 1 else BATCH_SIZES[-1])
    _LOGGER.info("engine=auto: %s", explanation(measured, name))
    for reason in _refused_files(path, measured):
        _LOGGER.warning("engine=auto: passes over %s", reason)
    return load_model(name, path, device, batch_size)


def measured_engines(path: Path, candidates: list[str]) -> dict[str, Measured]:
    """Return what is known about each engine for the model at `path`; measure it if nothing is."""
    try:
        known: dict[str, Measured] = json.loads(read_file(_verdict_file(path, candidates)))["engines"]
        if set(known) == set(candidates) and all(map(_is_measured, known.values())):
            return known
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):  # not there, or damaged
        pass
    _LOGGER.warning("engine=auto: measuring %s, once for this model on this machine", ", ".join(candidates))
    measured = measure(path, candidates)
    try:
        remember(path, candidates, measured)
    except (OSError, UserError) as error:
        _LOGGER.warning("engine=auto: will be measured again, since %s", error)
    return measured


def _is_measured(about: Measured) -> bool:
    """Whether an entry of a file has all that is needed to choose."""
    if "refused" in about:
        return isinstance(about["refused"], str)
    seconds = about["least_seconds"]
    is_positive = all(isinstance(value, float) and 0 < value < math.inf for value in seconds.values())
    return isinstance(about["precision"], str) and set(seconds) == set(map(str, BATCH_SIZES)) and is_positive


def remember(path: Path, candidates: list[str], measured: Mapping[str, Measured]) -> None:
    """Keep what was measured for the model at `path`, replacing what is known.

    Raises:
        UserError, OSError: It cannot be written.
    """
    content = {
        "checkpoint": os.path.abspath(path),
        "machine": _machine(),
        "engines": {name: measured[name] for name in candidates},
    }
    file = _verdict_file(path, candidates)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(content, indent=2))


def candidates() -> list[str]:
    """Return the engines that `conf/engine/auto.yaml` names."""
    named: list[str] = content_of("engine", "auto").get("candidates", [])
    return named


def fastest(measured: Mapping[str, Measured], batch_size: int) -> str:
    """Return the name of the engine that takes the least time for a batch; see `_GAIN`.

    Raises:
        UserError: None can compute the model.
    """
    usable = {name: about for name, about in measured.items() if "refused" not in about}
    if not usable:
        raise UserError(f"no engine can compute the model: {'; '.join(_refusals(measured))}")

    def cost(name: str) -> float:
        about = usable[name]
        return about["least_seconds"][str(batch_size)] * (1.0 if about["precision"] == "fp32" else _GAIN)

    return min(usable, key=cost)


def explanation(measured: Mapping[str, Measured], chosen: str) -> str:
    """Return the images per second of all engines, the chosen one first, and, on lines of their own, the others."""
    usable = sorted((name for name in measured if "refused" not in measured[name]), key=lambda name: name != chosen)
    speeds = [
        f"{name} {' / '.join(f'{int(size) / each:,.0f}' for size, each in measured[name]['least_seconds'].items())}"
        for name in usable
    ]
    sizes = " / ".join(map(str, BATCH_SIZES))
    return "\n  ".join([f"images/s in batches of {sizes}: {', '.join(speeds)}", *_refusals(measured)])


def _refusals(measured: Mapping[str, Measured]) -> list[str]:
    return [f"{name}: {about['refused']}" for name, about in measured.items() if "refused" in about]


def _refused_files(path: Path, measured: Mapping[str, Measured]) -> list[str]:
    """Return the refusals of exported files that are there: damaged ones, and those of an earlier checkpoint."""
    files = [str(file) for file in exported_files(path)]
    return [reason for reason in _refusals(measured) if any(file in reason for file in files)]


def _verdict_file(path: Path, candidates: list[str]) -> Path:
    """Return a file named by all that the result depends on: model, exported files, engines, machine, versions."""
    exported = {file.name: [file.stat().st_size, file.stat().st_mtime_ns] for file in exported_files(path)}
    facts = {"model": file_sha256(path), "exported": exported, "candidates": candidates, "machine": _machine()}
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return cache_folder("engines") / f"{digest[:32]}.json"


def _machine() -> dict[str, Any]:
    versions: dict[str, str | None] = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return {**processor(), "processors": num_cpus(), "versions": versions}


def _has_gpu() -> bool:
    """Whether the driver of an NVIDIA GPU is there; asking PyTorch would import it."""
    return any(Path("/dev").glob("nvidia[0-9]*"))
