"""ONNX in 8-bit integers: quantised convolutions with scales per channel, calibrated on training images.

Activations are unsigned, since ONNX Runtime computes unsigned with signed weights several times as fast as signed with
signed on x86.
"""

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cifar10.files import file_sha256
from cifar10.formats import Source
from cifar10.formats.calibration import IntegerFormat, closest, engine_of, golden_of
from cifar10.formats.onnx import to_onnx
from cifar10.formats.training_reference import reference_of
from cifar10.inference.description import KEY, ModelDescription
from cifar10.inference.engines import Engine
from cifar10.inference.engines.onnx import PRECISION, import_onnxruntime, load
from cifar10.inference.seal import sealed
from cifar10.runs.checkpoints import Checkpoint

_BATCH_IMAGES = 64
_QUANTIZED = ["Conv", "Gemm", "MatMul", "MaxPool", "Sigmoid", "Mul", "Relu", "Add", "GlobalAveragePool"]


class Int8Format(IntegerFormat):
    """The same input and output as the ONNX file in float32."""

    file_name = "model_int8.onnx"

    def obstacle(self, checkpoint: Checkpoint) -> str | None:
        return None

    def write(self, source: Source, path: Path) -> None:
        import_onnxruntime()
        model = to_onnx(source.checkpoint)
        images = source.calibration[: self.num_images]
        with tempfile.TemporaryDirectory(prefix="export-") as folder, _quiet():
            prepared = _prepared(model, Path(folder))
            candidates = [_quantized(prepared, Path(folder), images, percentile) for percentile in self.percentiles]
            best = candidates[closest(map(engine_of, candidates), source, self.num_images)]
        _describe(best, source)
        path.write_bytes(sealed(best.SerializeToString()))

    def read(self, path: Path, source: Source) -> Engine:
        return load(path).engine


def _prepared(model: Any, folder: Path) -> Path:
    """Write `model` as quantisation needs it: normalisation in the convolutions, shapes inferred."""
    import onnx
    from onnxruntime.quantization import quant_pre_process

    onnx.save(model, folder / "float.onnx")
    quant_pre_process(folder / "float.onnx", folder / "prepared.onnx", skip_symbolic_shape=True)
    return folder / "prepared.onnx"


def _quantized(prepared: Path, folder: Path, images: NDArray[np.uint8], percentile: float) -> Any:
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            num_batches = -(-len(images) // _BATCH_IMAGES)
            size = len(images) // num_batches  # the quantiser needs batches of one size
            self.batches: Iterator[NDArray[np.uint8]] = iter(np.split(images[: num_batches * size], num_batches))

        def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
            return next(({"pixels": batch} for batch in self.batches), None)

    path = folder / f"{percentile}.onnx"
    quantize_static(
        prepared,
        path,
        Reader(),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=_QUANTIZED,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.Percentile,
        extra_options={"CalibPercentile": percentile},
    )
    return onnx.load(path)


def _describe(model: Any, source: Source) -> None:
    """Replace the description of the float32 model: golden probabilities are those of the integers."""
    import onnx

    engine = engine_of(model)
    changes = {
        "golden": golden_of(engine, source),
        "file_digest": file_sha256(source.checkpoint.path),
        "reference": reference_of(engine, source),
    }
    description = ModelDescription.of(source.checkpoint).model_copy(update=changes)
    onnx.helper.set_model_props(model, {KEY: description.model_dump_json(), PRECISION: "int8"})


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the quantiser, which prints its progress and advice."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        root.setLevel(level)
