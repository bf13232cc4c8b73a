"""Time that predictors take for one image, measured in turn."""

import statistics
import time
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from cifar10.inference.predictor import Predictor

_WARM_UP = 10  # images before the first that is timed


def median_seconds(predictors: Mapping[str, tuple[Predictor, NDArray[np.uint8]]], num_images: int) -> dict[str, float]:
    """Return the median of the seconds that each predictor takes from pixels to probabilities of one image.

    They take turns with each image, and each of them begins as often as the others, so that other work on the machine
    slows all of them. Test-time augmentation is included.

    Args:
        predictors: Name -> predictor, and images for it, uint8 (N, S, S, 3) with N of at least 1.
        num_images: Timed for each; the images are repeated if they are fewer.
    """
    names = list(predictors)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(-_WARM_UP, num_images):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            predictor, images = predictors[name]
            position = number % len(images)
            image = np.ascontiguousarray(images[position : position + 1])
            started = time.perf_counter()
            predictor.probabilities(image)
            if number >= 0:
                seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(each) for name, each in seconds.items()}
