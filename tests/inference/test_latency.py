"""Predictors are timed in turn, image by image."""

import time
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cifar10.inference.latency import median_seconds


@dataclass
class Sleeper:
    """Takes a known time for one image."""

    name: str
    seconds: float
    calls: list[str] = field(default_factory=list)

    def probabilities(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        assert pixels.shape == (1, 4, 4, 3) and pixels.flags.c_contiguous
        self.calls.append(self.name)
        time.sleep(self.seconds)
        return np.full((1, 2), 0.5, np.float32)


def test_a_slower_predictor_is_found_slower_and_both_take_turns() -> None:
    images, calls = np.zeros((3, 4, 4, 3), np.uint8), list[str]()
    fast, slow = Sleeper("fast", 0.001, calls), Sleeper("slow", 0.004, calls)
    seconds = median_seconds({"fast": (fast, images), "slow": (slow, images)}, 20)  # type: ignore[dict-item]
    assert 0.001 <= seconds["fast"] < 0.004 <= seconds["slow"]
    turns = [tuple(calls[start : start + 2]) for start in range(0, len(calls), 2)]
    assert all(sorted(turn) == ["fast", "slow"] for turn in turns)
    assert turns.count(("fast", "slow")) == turns.count(("slow", "fast"))
