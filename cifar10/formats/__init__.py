"""Export formats, one file each, and one in `conf/export/`: a checkpoint's network for other programs."""

from pathlib import Path
from typing import Protocol

from cifar10.inference.engines import Engine
from cifar10.runs.checkpoints import Checkpoint


class ExportFormat(Protocol):
    """Writes a network to a file, and reads it back."""

    file_name: str
    """Of the file that is written."""

    def write(self, checkpoint: Checkpoint, path: Path) -> None:
        """Write the network of `checkpoint` to `path`, which does not exist."""

    def read(self, path: Path, checkpoint: Checkpoint) -> Engine:
        """Return an engine that computes with the content of `path`, for comparison with the checkpoint."""
