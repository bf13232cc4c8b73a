"""Probabilities by ONNX Runtime, from an exported file. Importing this imports no torch."""

import os
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cifar10.config.advice import command_line
from cifar10.errors import CheckpointError, UsageError, UserError, first_line
from cifar10.files import file_sha256
from cifar10.inference.description import KEY, LoadedModel, ModelDescription, require_golden
from cifar10.inference.seal import read_sealed
from cifar10.system.limits import num_cpus

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


PROBABILITIES, LOGITS = "probabilities", "logits"
"""Names of the outputs; files of earlier versions have no logits."""
_PIXELS_AT_ONCE = 2**17
"""128 images of 32 x 32: as fast as 1,000, in 0.2 instead of 1.1 GB for 64 channels in float32."""
PRECISION = "precision"
"""Key in the metadata of a file that computes in another precision than fp32."""


class OnnxEngine:
    """A session of ONNX Runtime, on the CPU.

    Args:
        session: Takes `pixels`, uint8 (B, H, W, 3), and returns probabilities and logits, float32 (B, K).
        precision: Of its computation: fp32 or int8.
    """

    def __init__(self, session: "InferenceSession", precision: str = "fp32") -> None:
        self.session = session
        self.precision = precision

    def probabilities(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return class probabilities, (B, K), of `pixels`, uint8 (B, H, W, 3), RGB."""
        [probabilities] = self._outputs([PROBABILITIES], pixels)
        return probabilities

    def probabilities_and_logits(self, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the same probabilities, and the logits that they are the softmax of, both (B, K).

        The file must have been exported with logits, as those with a `Reference` are.
        """
        probabilities, logits = self._outputs([PROBABILITIES, LOGITS], pixels)
        return probabilities, logits

    def _outputs(self, names: Sequence[str], pixels: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """Return the outputs of these names, in parts that need little memory; others are not computed."""
        height, width = pixels.shape[1:3]
        at_once = max(_PIXELS_AT_ONCE // (height * width), 1)
        starts = range(0, max(len(pixels), 1), at_once)
        parts = [self.session.run(names, {"pixels": pixels[start : start + at_once]}) for start in starts]
        return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]

    def describe(self) -> dict[str, str]:
        """Return what probabilities depend on beside the weights."""
        return {
            "engine": f"onnxruntime {import_onnxruntime().__version__}",
            "device": "cpu",
            "precision": self.precision,
        }


def load(path: Path, device: str = "auto", batch_size: int | None = None, file_name: str = "model.onnx") -> LoadedModel:
    """Load an exported ONNX file, and compare what it computes here with what it computed at its export.

    Args:
        path: The file, or a checkpoint that has been exported: then `file_name` in the folder `export` beside it.
        device: auto or cpu.
        batch_size: With 1, the runtime's threads wait actively, which lowers the latency. Otherwise they leave their
            processors to the threads that decode images.
        file_name: Which of several exported files.

    Raises:
        CheckpointError: There is no such file; it is damaged, or computes other probabilities here.
        UsageError: The device is not the CPU.
        UserError: ONNX Runtime is not installed.
    """
    if device not in ("auto", "cpu"):
        raise UsageError(f"device={device}: ONNX files are computed on the CPU; choose auto or cpu")
    file = path if path.suffix == ".onnx" else path.parent / "export" / file_name
    if not file.is_file():
        raise CheckpointError(f"{path} has not been exported to {file}: {_export_line(path, file)}")
    try:
        session, description = _opened(file, waits_actively=batch_size == 1)
    except CheckpointError as error:
        if file == path:
            raise
        raise CheckpointError(f"{error}; export it again: {_export_line(path, file)}") from None
    if file != path and description.file_digest not in (None, file_sha256(path)):
        raise CheckpointError(_of_another(path, file, str(description.file_digest)))
    precision = session.get_modelmeta().custom_metadata_map.get(PRECISION, "fp32")
    engine = OnnxEngine(session, precision)
    require_golden(description, engine, file)
    return LoadedModel(engine, description)


def exported_weights(file: Path) -> str:
    """Return the digest of the weights that an exported ONNX file says that it has.

    Raises:
        CheckpointError: It is damaged, or was not exported by this program.
    """
    return _opened(file)[1].weights_digest


def _opened(file: Path, waits_actively: bool = True) -> tuple["InferenceSession", ModelDescription]:
    content, has_seal = read_sealed(file)
    session = open_session(content, file, waits_actively)
    try:
        entries = session.get_modelmeta().custom_metadata_map
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{file}: its metadata are damaged: {first_line(error)}") from None
    description = ModelDescription.parse(entries.get(KEY), file)
    if description.is_sealed and not has_seal:
        raise CheckpointError(f"{file} is damaged or was changed by another program: it lacks the seal of its export")
    return session, description


def _export_line(checkpoint: Path, file: Path) -> str:
    """Return the command that writes `file`: model_int8.onnx has the format onnx_int8."""
    formats = f"onnx{file.stem.removeprefix('model')}"
    return command_line("export", checkpoint_name=str(checkpoint), formats=formats)


def _of_another(checkpoint: Path, file: Path, digest: str) -> str:
    """Return the message that `file` was exported from another checkpoint, whose SHA-256 is `digest`."""
    for other in sorted(checkpoint.parent.glob("*.ckpt")):
        if other != checkpoint and file_sha256(other) == digest:
            return f"{file} is of {other.name}, not of {checkpoint.name}; to use it: --checkpoint_name={other}"
    return f"{file} was exported from an earlier {checkpoint.name}: {_export_line(checkpoint, file)}"


def open_session(model: bytes, name: object, waits_actively: bool = True) -> "InferenceSession":
    """Open the content of an ONNX file.

    Args:
        model: The content; it may not refer to other files.
        name: For messages.
        waits_actively: Whether threads without work keep their processors for a while.

    Raises:
        CheckpointError: It is damaged.
        UserError: ONNX Runtime is not installed.
    """
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_cpus()
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(waits_actively)))
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
    options.log_severity_level = 4  # errors are raised
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of many types, none of them public
        raise CheckpointError(f"{name} cannot be read as an ONNX file: {first_line(error)}") from error


def import_onnxruntime() -> ModuleType:
    """Import ONNX Runtime without its telemetry, which begins at the import and keeps an id of the machine at home.

    Raises:
        UserError: It is not installed.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    try:
        import onnxruntime
    except ModuleNotFoundError:
        raise UserError("ONNX files need a package: python -m pip install 'onnxruntime>=1.22'") from None
    onnxruntime.disable_telemetry_events()
    module: ModuleType = onnxruntime
    return module
