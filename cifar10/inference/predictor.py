"""Pixels -> probabilities, whatever computes them. Importing this needs no torch; an engine may.

Shapes: B images of S x S pixels, K classes.
"""

from dataclasses import dataclass, field
from typing import Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from cifar10.config.schema import TTA, Views
from cifar10.errors import UsageError


class Engine(Protocol):
    """What computes. A new one is a new file in `cifar10/inference/engines/`."""

    def probabilities(self, pixels: NDArray[np.uint8], tta: Views) -> NDArray[np.float32]:
        """Return class probabilities (B, K), averaged over the views of `tta`, of `pixels` (B, S, S, 3)."""
        ...

    def describe(self) -> dict[str, str]:
        """Return what the answers depend on beside the weights: engine and version, device, precision."""
        ...


@dataclass(frozen=True, eq=False)
class Predictor:
    """A trained classifier that can be asked."""

    engine: Engine
    class_names: tuple[str, ...]
    image_size: int
    """S: height and width in pixels of the images it takes."""
    batch_size: int
    """Most images to compute at once."""
    tta: TTA
    """Test-time augmentation: the views that are averaged."""
    origin: dict[str, str] = field(default_factory=dict)
    """Where the weights come from: checkpoint path, weights_digest, data_digest."""
    tta_confidence: float = 0.0
    """For mirror_translate_selective: images whose largest probability is below it get all six views."""

    @classmethod
    def from_checkpoint(
        cls,
        name: str,
        device: str = "auto",
        batch_size: int | None = None,
        tta: str | None = None,
        models_dir: str = "models",
    ) -> "Predictor":
        """Return the predictor that answers as the checkpoint's network did in the test pass of its training.

        Args:
            name: As for `resolve_checkpoint`.
            device: auto, cpu, cuda or cuda:N.
            batch_size: Most images to compute at once; None: as in the test pass.
            tta: Views to average; None: those that the checkpoint was tested with.
            models_dir: Where run folders are.

        Raises:
            UserError: There is no such checkpoint or device.
            UsageError: `tta` or `batch_size` is not possible.
        """
        checked = _checked_tta(tta)
        if batch_size is not None and batch_size < 1:
            raise UsageError(f"batch_size={batch_size} is not possible; it must be 1 or more")
        from cifar10.inference.engines.pytorch import TorchEngine
        from cifar10.runs.checkpoint_names import resolve_checkpoint
        from cifar10.runs.checkpoints import load_checkpoint

        checkpoint = load_checkpoint(resolve_checkpoint(name, models_dir))
        evaluation = checkpoint.config.evaluation
        origin = {
            "checkpoint": str(checkpoint.path),
            "weights_digest": checkpoint.weights_digest,
            "data_digest": checkpoint.data_digest,
        }
        return cls(
            engine=TorchEngine.from_checkpoint(checkpoint, device),
            class_names=checkpoint.class_names,
            image_size=checkpoint.image_size,
            batch_size=batch_size or evaluation.images_at_once(checkpoint.image_size),
            tta=checked or checkpoint.tta,
            tta_confidence=evaluation.tta_confidence,
            origin=origin,
        )

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def provenance(self) -> dict[str, str]:
        """All that an answer depends on beside the pixels."""
        bound = {"tta_confidence": str(self.tta_confidence)} if self.tta == "mirror_translate_selective" else {}
        asked = {"tta": self.tta, **bound, "batch_size": str(self.batch_size)}
        return {**self.origin, **self.engine.describe(), **asked}

    def predict(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return class probabilities, float32 (B, K), of RGB `pixels`, uint8 (B, S, S, 3). B may be 0."""
        assert pixels.dtype == np.uint8 and pixels.shape[1:] == (self.image_size, self.image_size, 3), pixels.shape
        parts = [pixels[start : start + self.batch_size] for start in range(0, len(pixels), self.batch_size)]
        nothing = np.empty((0, self.num_classes), np.float32)
        return np.concatenate([nothing, *(self._probabilities(part) for part in parts)])

    def _probabilities(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Let the engine answer; in selective mode a second time, for the images of which it was not sure."""
        if self.tta != "mirror_translate_selective":
            return self.engine.probabilities(pixels, self.tta)
        answers = self.engine.probabilities(pixels, "none")
        unsure = answers.max(axis=1, initial=0) < self.tta_confidence
        if not unsure.any():
            return answers
        answers = answers.copy()  # an engine may keep its own
        answers[unsure] = self.engine.probabilities(pixels[unsure], "mirror_translate")
        return answers


def _checked_tta(tta: str | None) -> TTA | None:
    for known in get_args(TTA):
        if tta == known:
            return known  # type: ignore[no-any-return]
    if tta is None:
        return None
    raise UsageError(f"tta={tta!r} is not known; choose {', '.join(get_args(TTA))}")
