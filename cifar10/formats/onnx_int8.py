"""ONNX in 8-bit integers: quantised convolutions with scales per channel, calibrated on training images.

Activations are unsigned, since ONNX Runtime computes unsigned with signed weights several times as fast as signed with
signed on x86. Their ranges are percentiles, since single outliers would make the steps of all other values coarse; of
several percentiles, the one is taken whose probabilities are closest to those in float32 on held-out images.
"""

import contextlib
import io
import logging
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from cifar10.files import file_sha256
from cifar10.formats import Source
from cifar10.formats.onnx import to_onnx
from cifar10.formats.parity import Parity
from cifar10.inference.description import KEY, ModelDescription, golden
from cifar10.inference.engines import Engine
from cifar10.inference.engines.onnx import PRECISION, OnnxEngine, load, open_session
from cifar10.types import Length, PositiveInt, Range

_QUANTIZED = ["Conv", "Gemm", "MatMul", "MaxPool", "Sigmoid", "Mul", "Relu", "Add", "GlobalAveragePool"]
_ROUNDS = 7
_MOST_HELD_OUT = 1000


class Int8Format:
    """The same input and output as the ONNX file in float32.

    Args:
        num_images: Training images to calibrate with.
        percentiles: Ranges of activations to choose from: the part of all values, in percent, that they contain.
        points: Percentage points of test accuracy that may be lost.
    """

    file_name = "model_int8.onnx"

    def __init__(
        self,
        num_images: PositiveInt = 512,
        percentiles: Annotated[list[float], Length(1, 9)] = [99.9, 99.99, 99.999],  # noqa: B006
        points: Annotated[float, Range(ge=0, le=100)] = 0.1,
    ) -> None:
        self.num_images = num_images
        self.percentiles = percentiles
        self.points = points

    def write(self, source: Source, path: Path) -> None:
        import onnx

        model = to_onnx(source.checkpoint)
        images = source.calibration[: self.num_images]
        others = (source.held_out, source.calibration[self.num_images :], images)
        held_out = next(each for each in others if len(each))[:_MOST_HELD_OUT]  # of few images, the same ones
        exact = _probabilities(_engine(model), held_out)
        with tempfile.TemporaryDirectory(prefix="export-") as folder, _quiet():
            prepared = _prepared(model, Path(folder))
            candidates = [_quantized(prepared, Path(folder), images, percentile) for percentile in self.percentiles]
            errors = [float(np.square(_probabilities(_engine(each), held_out) - exact).mean()) for each in candidates]
        best = candidates[int(np.argmin(errors))]
        _describe(best, source)
        onnx.save(best, path)

    def read(self, path: Path, source: Source) -> Engine:
        return load(path).engine

    def refusal(self, found: Parity, engine: Engine, source: Source) -> str | None:
        if found.lost_points > self.points:
            return f"it loses {found.lost_points:.2f} points of accuracy, more than {self.points}"
        ratio = _speed(engine, _engine(to_onnx(source.checkpoint)), source.calibration[:256])
        return None if ratio > 1 else f"it is not faster than float32 here ({ratio:.2f} times)"


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
            self.batches: Iterator[NDArray[np.uint8]] = iter(np.array_split(images, -(-len(images) // 64)))

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

    images = source.calibration[:4]
    known = golden(images, _probabilities(_engine(model), images))
    digest = file_sha256(source.checkpoint.path)
    description = ModelDescription.of(source.checkpoint).model_copy(update={"golden": known, "file_digest": digest})
    onnx.helper.set_model_props(model, {KEY: description.model_dump_json(), PRECISION: "int8"})


def _engine(model: Any) -> OnnxEngine:
    return OnnxEngine(open_session(model.SerializeToString(), "the network"), "int8")


def _probabilities(engine: Engine, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.concatenate([engine.probabilities(images[start : start + 250]) for start in range(0, len(images), 250)])


def _speed(engine: Engine, reference: Engine, images: NDArray[np.uint8]) -> float:
    """Return how many times as fast as `reference` `engine` is: the median of measurements in turn."""
    ratios = []
    for number in range(_ROUNDS + 1):  # the first warms up
        seconds = []
        for each in (engine, reference):
            started = time.perf_counter()
            each.probabilities(images)
            seconds.append(time.perf_counter() - started)
        ratios += [seconds[1] / seconds[0]] if number else []
    return statistics.median(ratios)


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
