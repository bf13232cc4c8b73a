"""Learning rate schedules: the factor of the highest learning rate at a training progress in [0, 1]."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from cifar10.types import Fraction, Part, Range

Schedule = Callable[[float], float]
"""Progress in [0, 1] -> factor in [0, 1] by which every learning rate is multiplied."""


@dataclass(frozen=True)
class Constant:
    """Rise during `warmup`, then stay."""

    warmup: Fraction = 0.0

    def __call__(self, progress: float) -> float:
        return _warm_up(progress, self.warmup)


@dataclass(frozen=True)
class Linear:
    """Rise during `warmup`, then fall in a straight line to `final`."""

    warmup: Fraction = 0.0
    final: Part = 0.0

    def __call__(self, progress: float) -> float:
        return _warm_up(progress, self.warmup) * _between(1.0, self.final, _part_of(progress, self.warmup, 1.0))


@dataclass(frozen=True)
class Cosine:
    """Rise during `warmup`, then fall along half a cosine wave to `final` (arXiv:1608.03983, without restarts)."""

    warmup: Fraction = 0.05
    final: Part = 0.0

    def __call__(self, progress: float) -> float:
        return _warm_up(progress, self.warmup) * _half_cosine(1.0, self.final, _part_of(progress, self.warmup, 1.0))


@dataclass(frozen=True)
class OneCycle:
    """Rise from `initial` to 1 at `peak` and fall to `final`, both along half a cosine wave (arXiv:1708.07120)."""

    peak: Annotated[float, Range(gt=0, lt=1)] = 0.3
    initial: Part = 0.04
    final: Part = 1e-4

    def __call__(self, progress: float) -> float:
        if progress < self.peak:
            return _half_cosine(self.initial, 1.0, progress / self.peak)
        return _half_cosine(1.0, self.final, _part_of(progress, self.peak, 1.0))


def _warm_up(progress: float, warmup: float) -> float:
    return min(progress / warmup, 1.0) if warmup else 1.0


def _part_of(value: float, start: float, end: float) -> float:
    return min(max((value - start) / (end - start), 0.0), 1.0)


def _between(start: float, end: float, part: float) -> float:
    return start + (end - start) * part


def _half_cosine(start: float, end: float, part: float) -> float:
    return _between(start, end, 0.5 - 0.5 * math.cos(math.pi * part))
