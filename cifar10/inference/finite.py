"""Refuse a network that gives NaN or infinity: the largest of its probabilities would still name a class."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cifar10.errors import CheckpointError
from cifar10.wording import counted


def require_numbers(probabilities: NDArray[np.floating], path: Path, noun: str = "image") -> None:
    """Check what a network computed.

    Args:
        probabilities: (N, K).
        path: Of the network's file, for the message.
        noun: What the rows are of.

    Raises:
        CheckpointError: A row has a value that is not finite.
    """
    num_without = int((~np.isfinite(probabilities).all(axis=1)).sum())
    if num_without:
        raise CheckpointError(
            f"{path} gives no numbers for {num_without:,} of {counted(len(probabilities), noun)}: it has diverged, or "
            "is damaged; choose another checkpoint"
        )
