"""Describe the images that a network was trained on: histograms, and when an image is unlike them."""

import numpy as np
from numpy.typing import NDArray

from cifar10.formats import Source
from cifar10.inference.engines import EngineWithLogits
from cifar10.inference.reference import Reference, counts_of
from cifar10.inference.tta import augment
from cifar10.inference.unlike import calibrate

_MOST_HELD_OUT = 5000


def reference_of(engine: EngineWithLogits, source: Source) -> Reference | None:
    """Return the reference of a network; None if it has no training images.

    Confidence and the rule for unlike images are those of held-out images. If none were held out, training images take
    their place, of which a network is surer.

    Args:
        engine: Of the file that the reference is for.
        source: What is exported.
    """
    training = source.training
    if training is None:
        return None
    images = source.held_out[:_MOST_HELD_OUT] if len(source.held_out) else training
    evaluation, checkpoint = source.checkpoint.config.evaluation, source.checkpoint
    size = evaluation.images_at_once(checkpoint.image_size)
    parts = [np.ascontiguousarray(images[start : start + size]) for start in range(0, len(images), size)]
    probabilities: list[NDArray[np.float32]] = []
    logits: list[NDArray[np.float32]] = []
    for part in parts:
        plain, found = engine.probabilities_and_logits(part)
        probabilities.append(augment(engine.probabilities, part, plain, checkpoint.tta, evaluation.tta_confidence))
        logits.append(found)
    of_training = counts_of(training, np.empty((len(training), 1), np.float32))
    of_held_out = counts_of(images, np.concatenate(probabilities))
    counts = of_held_out | {"brightness": of_training["brightness"], "contrast": of_training["contrast"]}
    return Reference(
        num_images=len(training),
        num_held_out=len(images) if len(source.held_out) else 0,
        tta=checkpoint.tta,
        counts={measure: numbers.tolist() for measure, numbers in counts.items()},
        unlike=calibrate(training, images, np.concatenate(logits)),
    )
