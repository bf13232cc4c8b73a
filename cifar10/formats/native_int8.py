"""Ranges of activations, calibrated on training images, for our own kernels in 8-bit integers."""

from pathlib import Path
from typing import Annotated

import numpy as np
import torch

from cifar10.devices import integer_obstacle, integer_ranges
from cifar10.files import file_sha256
from cifar10.formats import Source
from cifar10.formats.calibration import closest, golden_of, refusal
from cifar10.formats.parity import Parity
from cifar10.inference.engines import Engine
from cifar10.inference.engines.native import NativeEngine
from cifar10.inference.engines.native_int8 import FILE_NAME, CalibratedRanges, load_ranges
from cifar10.runs.checkpoints import Checkpoint
from cifar10.types import Length, PositiveInt, Range


class NativeInt8Format:
    """Ranges that `engine=native_int8` computes the checkpoint with.

    Args:
        num_images: Training images to calibrate with.
        percentiles: Ranges of activations to choose from: the part of all values, in percent, that they contain.
        points: Percentage points of test accuracy that may be lost.
    """

    file_name = FILE_NAME

    def __init__(
        self,
        num_images: PositiveInt = 512,
        percentiles: Annotated[list[Annotated[float, Range(gt=0, le=100)]], Length(1, 9)] = [99.9, 99.99, 99.999],  # noqa: B006
        points: Annotated[float, Range(ge=0, le=100)] = 0.1,
    ) -> None:
        self.num_images = num_images
        self.percentiles = percentiles
        self.points = points

    def obstacle(self, checkpoint: Checkpoint) -> str | None:
        return integer_obstacle(checkpoint.network())

    def write(self, source: Source, path: Path) -> None:
        checkpoint = source.checkpoint
        pixels = source.calibration[: self.num_images].transpose(0, 3, 1, 2)
        images = torch.from_numpy(np.ascontiguousarray(pixels))
        candidates = integer_ranges(checkpoint.network().eval(), images, self.percentiles)
        engines = [NativeEngine(checkpoint, ranges) for ranges in candidates]
        best = closest(engines, source, self.num_images)
        content = CalibratedRanges(
            file_digest=file_sha256(checkpoint.path),
            ranges=tuple(candidates[best]),
            golden=golden_of(engines[best], source),
        )
        path.write_text(content.model_dump_json(indent=1), encoding="utf-8")

    def read(self, path: Path, source: Source) -> Engine:
        return load_ranges(path, source.checkpoint)

    def refusal(self, found: Parity, engine: Engine, source: Source) -> str | None:
        return refusal(found, engine, source, self.points)
