"""What was measured about a checkpoint: the files beside it that are about the same weights."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cifar10.files import read_text
from cifar10.runs.folder import SCORES

if TYPE_CHECKING:
    from cifar10.runs.checkpoints import Checkpoint

EVALUATION = "evaluation/report.json"
"""Of `evaluate`."""
PROMOTION = "promotion.json"
"""Of `promote`: parity of the exported file, accuracy, latency and checks."""
_OF_EVALUATION = ("split", "tta", "num_images", "data_digest", "accuracy", "loss", "macro", "classes", "calibration")
_OF_PROMOTION = ("made", "target", "export", "parity", "accuracy", "latency", "checks", "machine", "versions")


@dataclass(frozen=True)
class MeasuredFiles:
    """The content of each file; None: it is not there, or about other weights."""

    scores: Mapping[str, Any] | None
    """Of the training."""
    evaluation: Mapping[str, Any] | None
    promotion: Mapping[str, Any] | None

    @classmethod
    def of(cls, checkpoint: "Checkpoint") -> "MeasuredFiles":
        """Read what is beside a checkpoint."""
        folder, digest = checkpoint.path.parent, checkpoint.weights_digest
        return cls(
            scores=_read(folder / SCORES, digest, ()),
            evaluation=_read(folder / EVALUATION, digest, _OF_EVALUATION),
            promotion=_read(folder / PROMOTION, digest, _OF_PROMOTION),
        )


def _read(path: Path, weights_digest: str, keys: Iterable[str]) -> Mapping[str, Any] | None:
    """Return the content of a JSON file; None if it cannot be read, lacks keys, or is about other weights."""
    try:
        content = json.loads(read_text(path))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or content.get("weights_digest") != weights_digest:
        return None
    return content if content.keys() >= set(keys) else None
