"""An inference request: what `infer` works on, found and checked before anything heavy is imported."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cifar10.errors import UsageError, UserError
from cifar10.images.named_image import ImageSource
from cifar10.images.search import no_images
from cifar10.inference.destination import NO_RECEIPTS, Destination, refuse_unfinished
from cifar10.inference.engines import require_engine

if TYPE_CHECKING:
    from cifar10.config.schema import Component
    from cifar10.inference.grouping import Grouping


@dataclass(frozen=True)
class InferenceRequest:
    """Which images to classify, with which network, and where results go.

    Raises:
        UsageError: `top_k` or `engine` is not possible.
        UserError: There are no images.
    """

    images: ImageSource
    checkpoint: "Path | str | Component"
    """A file, or a name that only MLflow knows; see `resolve_checkpoint`. Or a pretrained network."""
    destination: Destination
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    top_k: int = 1
    """Classes to name for each image."""
    batch_size: int | None = None
    """Images per forward pass; None: as in the test pass of the checkpoint's training."""
    tta: str | None = None
    """Test-time augmentation; None: as in that pass."""
    engine: str | None = None
    """What computes: the name of a file in `conf/engine/`; None: as the suffix of the checkpoint says."""
    resume: bool = False
    """Continue with the rows that an interrupted run has kept."""
    full_jpeg: bool = False
    """Decode large JPEG images at full size, as in training."""
    receipts: bool = False
    """Whether rows carry what `verify` needs: see `receipts.py`."""
    grouping: "Grouping | None" = None
    """Groups of classes to report as well."""

    def __post_init__(self) -> None:
        if self.top_k < 1:
            raise UsageError(f"top_k={self.top_k} is not possible; it must be 1 or more")
        if self.engine is not None:
            require_engine(self.engine)
            if not isinstance(self.checkpoint, Path | str) and self.engine not in ("torch", "auto"):
                raise UsageError(f"engine={self.engine}: a pretrained network is computed by torch; export it first")
        if self.receipts and self.destination.format == "table":
            raise UsageError(NO_RECEIPTS)
        if self.receipts and not isinstance(self.checkpoint, Path | str):
            raise UsageError("--receipts: verify cannot load a pretrained network; export it to ONNX first")
        path = self.destination.path
        if path is not None and not self.destination.is_stream:
            refuse_unfinished(path, self.resume)
        elif self.resume:
            raise UsageError("--resume continues a result file; name it with --output=FILE")
        if self.images.is_empty():
            raise UserError(no_images(self.images.given, self.images.skipped, self.images.root))
