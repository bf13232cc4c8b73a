"""Export formats, one file each, and one in `conf/export/`: a checkpoint's network for other programs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cifar10.formats.parity import Parity
from cifar10.inference.engines import Engine
from cifar10.runs.checkpoints import Checkpoint


@dataclass(frozen=True, eq=False)
class Source:
    """What is exported, and images to measure it with. All images are uint8 (N, S, S, 3), RGB."""

    checkpoint: Checkpoint
    calibration: NDArray[np.uint8]
    """Images that the network was trained on."""
    held_out: NDArray[np.uint8]
    """Other images than those of the test split; empty if all were trained on."""
    training: NDArray[np.uint8] | None = None
    """Training images from all over the split, at least one, to describe them; None: not known."""


class ExportFormat(Protocol):
    """Writes a network to a file, and reads it back."""

    file_name: str
    """Of the file that is written."""

    def obstacle(self, checkpoint: Checkpoint) -> str | None:
        """Return why this network cannot have the format, or not on this CPU; None if it can."""

    def write(self, source: Source, path: Path) -> None:
        """Write the network of `source` to `path`, which does not exist."""

    def read(self, path: Path, source: Source) -> Engine:
        """Return an engine that computes with the content of `path`."""

    def refusal(self, found: Parity, engine: Engine, source: Source) -> str | None:
        """Return why a file must not be used that computes the test images as `found` says; None if it may be."""


class ExactFormat:
    """A format for any network, whose files compute the probabilities of the checkpoint."""

    def obstacle(self, checkpoint: Checkpoint) -> str | None:
        return None

    def refusal(self, found: Parity, engine: Engine, source: Source) -> str | None:
        return None if found.is_equal else "it computes something else"
