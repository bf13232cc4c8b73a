"""Probabilities by our own kernels in 8-bit integers, with the ranges of activations that `export` has written.

The weights are those of the checkpoint; the file of the ranges is small, and no part of it is executed.
"""

import stat
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cifar10.config.advice import command_line
from cifar10.devices import integer_obstacle, limit_threads
from cifar10.errors import CheckpointError, UsageError, first_line
from cifar10.files import file_sha256
from cifar10.inference.description import Golden, LoadedModel, ModelDescription, require_golden
from cifar10.inference.engines.native import NativeEngine, require_cpu
from cifar10.runs.checkpoints import Checkpoint, load_checkpoint

FILE_NAME = "native_int8.json"
_MOST_BYTES = 64 * 2**20

Scale = Annotated[float, Field(gt=0, allow_inf_nan=False)]
ZeroPoint = Annotated[int, Field(ge=0, le=255)]


class CalibratedRanges(BaseModel):
    """The content of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    file_digest: str
    """SHA-256 of the checkpoint file."""
    ranges: Annotated[tuple[tuple[Scale, ZeroPoint], ...], Field(min_length=1)]
    """Of the inputs of each 3 x 3 convolution: size of a step, and the number that stands for 0."""
    golden: Golden


def load(path: Path, device: str = "auto") -> LoadedModel:
    """Load a checkpoint with its ranges, and compile its network for this CPU.

    Args:
        path: A checkpoint; the ranges are in the folder `export` beside it.
        device: auto or cpu.

    Raises:
        CheckpointError: A file is damaged, the ranges are missing or belong to another state of the checkpoint, or
            probabilities are other ones than at the export.
        UsageError: There are no kernels for the network or the CPU, or the device is another one.
    """
    require_cpu(device)
    limit_threads()
    checkpoint = load_checkpoint(path)
    engine = load_ranges(path.parent / "export" / FILE_NAME, checkpoint)
    return LoadedModel(engine, ModelDescription.of(checkpoint))


def load_ranges(file: Path, checkpoint: Checkpoint) -> NativeEngine:
    """Return an engine for `checkpoint` with the ranges in `file`; errors are those of `load`."""
    problem = integer_obstacle(checkpoint.network())
    if problem is not None:
        raise UsageError(f"engine=native_int8 is not possible: {problem}; choose torch or onnx")
    export = command_line("export", checkpoint_name=str(checkpoint.path), formats="native_int8")
    calibrated = _read(file, checkpoint.path, export)
    if calibrated.file_digest != file_sha256(checkpoint.path):
        raise CheckpointError(f"{file} was exported from an earlier {checkpoint.path.name}: {export}")
    try:
        engine = NativeEngine(checkpoint, calibrated.ranges)
    except ValueError as error:  # kernels there are
        raise CheckpointError(f"{file} is damaged ({error}): {export}") from None
    try:
        require_golden(ModelDescription.of(checkpoint).model_copy(update={"golden": calibrated.golden}), engine, file)
    except CheckpointError as error:
        raise CheckpointError(f"{error}: {export}") from error
    return engine


def _read(file: Path, checkpoint: Path, export: str) -> CalibratedRanges:
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            raise ValueError("it is not a file")
        if file.stat().st_size > _MOST_BYTES:
            raise ValueError("it is too large")
        return CalibratedRanges.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(f"{checkpoint} has not been exported to {file}: {export}") from None
    except ValidationError as error:
        reason = error.errors(include_url=False)[0]
        place = ".".join(map(str, reason["loc"]))
        raise CheckpointError(f"{file} is damaged ({place}{': ' if place else ''}{reason['msg']}): {export}") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read ({first_line(error)}): {export}") from error
