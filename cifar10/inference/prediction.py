"""The prediction for one image: its most probable classes, or the reason why it could not be read."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cifar10.images.decode import ImageError


@dataclass(frozen=True, slots=True)
class Prediction:
    """A class and its probability."""

    class_name: str
    class_id: int
    probability: float
    """Between 0 and 1."""


@dataclass(frozen=True, slots=True)
class GroupResult:
    """The probabilities of groups of classes."""

    name: str
    """The most probable group; `unsure` if it is not probable enough."""
    probabilities: Mapping[str, float]
    """Group -> sum over its classes. The rest has a name of its own, if it is reported."""


@dataclass(frozen=True, slots=True)
class ImageResult:
    """The prediction for one image."""

    path: str
    """Relative to the folder that was searched; otherwise as it was passed. Empty for an image in memory. May contain
    surrogate escapes."""
    top: tuple[Prediction, ...]
    """The most probable classes, the most probable first. Empty if there is an error."""
    label: str | None = None
    """The class that the image's folder is named for, if a folder was searched; None if there is none."""
    error: str | None = None
    """Why the image could not be read, or None."""
    sha256: str | None = None
    """SHA-256 of the encoded image, if it was requested and the image could be read."""
    group: GroupResult | None = None
    """The groups of its classes, if the predictor has groups."""
    unlike: bool | None = None
    """Whether the image is unlike the training data, if that was requested and the model can tell."""
    provenance: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)
    """Everything that the prediction depends on besides the pixels: checkpoint, digests, engine, device, settings."""

    @property
    def class_name(self) -> str:
        """The most probable class.

        Raises:
            ImageError: The image could not be read.
        """
        return self._best().class_name

    @property
    def class_id(self) -> int:
        """The index of the most probable class; raises as `class_name` does."""
        return self._best().class_id

    @property
    def probability(self) -> float:
        """The probability of the most probable class; raises as `class_name` does."""
        return self._best().probability

    def raise_for_error(self) -> None:
        """Raise the error if there is one.

        Raises:
            ImageError: The image could not be read.
        """
        if self.error is not None:
            raise ImageError(f"{self.path}: {self.error}" if self.path else self.error)

    def _best(self) -> Prediction:
        self.raise_for_error()
        return self.top[0]


def most_probable(
    probabilities: NDArray[np.float32], class_names: Sequence[str], top_k: int
) -> list[tuple[Prediction, ...]]:
    """Return the `top_k` most probable classes of each image; of equally probable classes, the lower id comes first.

    Args:
        probabilities: (B, K).
        class_names: In the order of their ids.
        top_k: At least 1; all classes if there are fewer.

    Returns:
        One tuple for each image, most probable first. Empty if a probability is not a finite number.
    """
    if top_k == 1:
        order = probabilities.argmax(axis=1)[:, None]
    else:
        order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top_k]
    values = np.take_along_axis(probabilities, order, axis=1).tolist()
    finite: list[bool] = np.asarray(np.isfinite(probabilities).all(axis=1)).tolist()
    return [
        tuple(Prediction(class_names[class_id], class_id, value) for class_id, value in zip(ids, row, strict=True))
        if is_finite
        else ()
        for ids, row, is_finite in zip(order.tolist(), values, finite, strict=True)
    ]


def image_results(
    names: Sequence[str],
    images: Sequence[object],
    labels: Sequence[str | None],
    computed: Iterable[tuple[tuple[Prediction, ...], GroupResult | None, bool | None]],
    provenance: Mapping[str, str],
) -> list[ImageResult]:
    """Return one result for each image, in order.

    Args:
        names: Of the images.
        images: An ImageError for each that could not be read; the others may be anything.
        labels: Of the images.
        computed: For each other image, its most probable classes, its groups, and whether it is unlike the training
            data. No classes: the network's output was not a number.
        provenance: Of all.
    """
    each, results = iter(computed), []
    for name, image, label in zip(names, images, labels, strict=True):
        if isinstance(image, ImageError):
            results.append(ImageResult(name, (), label, str(image), provenance=provenance))
            continue
        top, group, unlike = next(each)
        if top:
            results.append(ImageResult(name, top, label, group=group, unlike=unlike, provenance=provenance))
        else:
            results.append(ImageResult(name, (), label, "the network's output is not a number", provenance=provenance))
    return results
