"""What formats in 8-bit integers share: which images they are calibrated and judged with, and when they are refused.

Ranges of activations are percentiles, since single outliers would make the steps of all other values coarse; of several
percentiles, the one is taken whose probabilities are closest to those in float32 on held-out images.
"""

import statistics
import time
from collections.abc import Iterable
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from cifar10.formats import Source
from cifar10.formats.onnx import to_onnx
from cifar10.formats.parity import Parity
from cifar10.inference.description import Golden, golden
from cifar10.inference.engines import Engine
from cifar10.inference.engines.onnx import OnnxEngine, open_session
from cifar10.types import Length, PositiveInt, Range

_ROUNDS = 7
_MOST_HELD_OUT = 1000
_NUM_GOLDEN = 4


class IntegerFormat:
    """Settings of a format in 8-bit integers, and when its files are refused.

    Args:
        num_images: Training images to calibrate with.
        percentiles: Ranges of activations to choose from: the part of all values, in percent, that they contain.
        points: Percentage points of test accuracy that may be lost.
    """

    def __init__(
        self,
        num_images: PositiveInt = 512,
        percentiles: Annotated[list[Annotated[float, Range(gt=0, le=100)]], Length(1, 9)] = [99.9, 99.99, 99.999],  # noqa: B006
        points: Annotated[float, Range(ge=0, le=100)] = 0.1,
    ) -> None:
        self.num_images = num_images
        self.percentiles = percentiles
        self.points = points

    def refusal(self, found: Parity, engine: Engine, source: Source) -> str | None:
        """Return why a file must not be used: it is less accurate, or not faster than ONNX Runtime in float32."""
        if found.lost_points > self.points:
            return f"it loses {found.lost_points:.2f} points of accuracy, more than {self.points}"
        ratio = speed(engine, float_engine(source), source.calibration[:256])
        return None if ratio > 1 else f"it is not faster than float32 here ({ratio:.2f} times)"


def closest(engines: Iterable[Engine], source: Source, num_images: int) -> int:
    """Return the position of the engine whose probabilities are closest to those in float32 on held-out images.

    Args:
        engines: At least one.
        source: Of few images, those are taken that the engines were calibrated with.
        num_images: Calibration images that the engines were calibrated with.
    """
    others = (source.held_out, source.calibration[num_images:], source.calibration)
    held_out = next(each for each in others if len(each))[:_MOST_HELD_OUT]
    exact = _probabilities(float_engine(source), held_out)
    errors = [float(np.square(_probabilities(engine, held_out) - exact).mean()) for engine in engines]
    return int(np.argmin(errors))


def golden_of(engine: Engine, source: Source) -> Golden:
    """Return some images with the probabilities that `engine` computes."""
    images = source.calibration[:_NUM_GOLDEN]
    return golden(images, engine.probabilities(images))


def float_engine(source: Source) -> OnnxEngine:
    """Return ONNX Runtime in float32."""
    return engine_of(to_onnx(source.checkpoint))


def engine_of(model: Any) -> OnnxEngine:
    """Return an engine for an ONNX model in memory."""
    return OnnxEngine(open_session(model.SerializeToString(), "the network"), "int8")


def speed(engine: Engine, reference: Engine, images: NDArray[np.uint8]) -> float:
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


def _probabilities(engine: Engine, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.concatenate([engine.probabilities(images[start : start + 250]) for start in range(0, len(images), 250)])
