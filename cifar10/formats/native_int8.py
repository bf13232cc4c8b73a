"""Ranges of activations, calibrated on training images, for our own kernels in 8-bit integers."""

from pathlib import Path

import numpy as np
import torch

from cifar10.devices import integer_obstacle, integer_ranges
from cifar10.files import file_sha256
from cifar10.formats import Source
from cifar10.formats.calibration import IntegerFormat, closest, golden_of
from cifar10.inference.engines import Engine
from cifar10.inference.engines.native import NativeEngine
from cifar10.inference.engines.native_int8 import FILE_NAME, CalibratedRanges, load_ranges
from cifar10.runs.checkpoints import Checkpoint


class NativeInt8Format(IntegerFormat):
    """Ranges that `engine=native_int8` computes the checkpoint with."""

    file_name = FILE_NAME

    def obstacle(self, checkpoint: Checkpoint) -> str | None:
        if checkpoint.temperature != 1:
            return "its file holds no weights, and so no temperature"
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
