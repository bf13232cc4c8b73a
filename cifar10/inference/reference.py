"""What the training data looked like to a network: histograms to measure drift by, and when an image is unlike them.

It is part of the description of an exported ONNX file. Importing this imports no torch.

Shapes: B images of S x S pixels, K classes.
"""

from typing import Annotated, Final, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from cifar10.config.schema import TTAMode
from cifar10.inference.unlike import UnlikeRule

FORMAT: Final = 1
"""Of a `Reference`; another one is not read."""

Measure = Literal["brightness", "contrast", "confidence", "classes"]
MEASURES: Final[tuple[Measure, ...]] = get_args(Measure)

EDGES: Final[dict[Measure, NDArray[np.float32]]] = {
    "brightness": np.linspace(0, 256, 33, dtype=np.float32),
    "contrast": np.linspace(0, 128, 33, dtype=np.float32),
    "confidence": np.concatenate([np.linspace(0, 0.9, 19), np.linspace(0.91, 1, 10)]).astype(np.float32),
}
"""Limits of the bins of each histogram: of the mean of an image's levels, of their standard deviation, and of the
largest probability. A value on a limit belongs to the bin above it."""

Counts = dict[Measure, NDArray[np.int64]]
"""Images in each bin; of `classes`, images for each predicted class, (K,)."""


class Reference(BaseModel):
    """What a network's training and held-out images looked like."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: Literal[1] = FORMAT
    num_images: Annotated[int, Field(ge=1)]
    """Training images that brightness and contrast are of: all, or a sample."""
    num_held_out: Annotated[int, Field(ge=0)]
    """Images that confidence and classes are of, and that the rule was calibrated with; 0: none were held out, and
    training images took their place."""
    tta: TTAMode
    """Test-time augmentation that the probabilities were computed with."""
    counts: dict[Measure, list[Annotated[int, Field(ge=0)]]]
    """The histogram of each measure."""
    unlike: UnlikeRule | None = None
    """When an image is unlike the training data; None: too few images to calibrate a rule."""

    @model_validator(mode="after")
    def _counts_fit(self) -> Self:
        if set(self.counts) != set(MEASURES):
            raise ValueError(f"counts are of {', '.join(self.counts)}, and should be of {', '.join(MEASURES)}")
        for measure, edges in EDGES.items():
            if len(self.counts[measure]) != len(edges) - 1:
                raise ValueError(f"{measure} has {len(self.counts[measure])} bins, and should have {len(edges) - 1}")
        if not all(sum(counts) for counts in self.counts.values()):
            raise ValueError("a histogram counts no image")
        return self


def counts_of(pixels: NDArray[np.uint8], probabilities: NDArray[np.float32]) -> Counts:
    """Return the histograms of images.

    Args:
        pixels: uint8 (B, S, S, 3), RGB.
        probabilities: (B, K); rows that are not finite are left out of confidence and classes.
    """
    mean, deviation = brightness_and_contrast(pixels)
    finite = probabilities[np.isfinite(probabilities).all(axis=1)]
    return {
        "brightness": _histogram("brightness", mean),
        "contrast": _histogram("contrast", deviation),
        "confidence": _histogram("confidence", finite.max(axis=1, initial=0)),
        "classes": np.bincount(finite.argmax(axis=1), minlength=probabilities.shape[1]),
    }


def brightness_and_contrast(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the mean and the standard deviation of all levels of each image, both (B,)."""
    levels = pixels.reshape(len(pixels), -1).astype(np.float32)
    mean = levels.mean(axis=1)
    squares = np.einsum("ij,ij->i", levels, levels) / levels.shape[1]
    return mean, np.sqrt(np.maximum(squares - mean * mean, 0))


def _histogram(measure: Measure, values: NDArray[np.float32]) -> NDArray[np.int64]:
    inner = EDGES[measure][1:-1]  # whatever lies outside belongs to the first or the last bin
    return np.bincount(np.searchsorted(inner, values, side="right"), minlength=len(inner) + 1)
