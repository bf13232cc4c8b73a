"""Compare a network with the one that has the alias: accuracy on the same images, and latency in turn.

Shapes: N test images of S x S pixels.
"""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cifar10.analysis.promotion_checks import Check, accuracy_check, floor_check, latency_check
from cifar10.analysis.served_network import ServedNetwork
from cifar10.config.promotion import Promotion
from cifar10.data.image_dataset import ImageDataset
from cifar10.inference.latency import median_seconds
from cifar10.system.streams import print_message
from cifar10.wording import counted


def compare_and_time(
    own: ServedNetwork,
    data: ImageDataset,
    theirs: tuple[ServedNetwork, NDArray[np.uint8]] | None,
    settings: Promotion,
    told: Callable[[Check], Check],
) -> tuple[list[Check], dict[str, Any]]:
    """Return the checks of accuracy and latency, and their numbers.

    Args:
        own: The network.
        data: Its data.
        theirs: The network that has the alias, and the test images for it, (N, S, S, 3); None: there is none.
        settings: Limits.
        told: Called with each check when it is found; returns it.
    """
    images, labels = data.test.arrays()
    is_right = own.is_right(images, labels)
    checks = [told(floor_check(is_right, labels, settings.floor))]
    networks, compared, rival = {own.name: (own.predictor, images)}, None, ""
    if theirs is not None:
        champion, rival = theirs[0], theirs[0].name
        check, pair = accuracy_check(is_right, champion.is_right(theirs[1], labels), rival)
        checks.append(told(check))
        networks[rival] = (champion.predictor, theirs[1])
        compared = {"version": rival, "weights_digest": champion.checkpoint.weights_digest, **asdict(pair)}
    print_message(f"timing {' and '.join(networks)} with {counted(settings.latency_images, 'image')} each")
    seconds = median_seconds(networks, settings.latency_images)
    others = seconds[rival] if rival else None
    checks.append(told(latency_check(seconds[own.name], others, rival, settings.latency_factor)))
    return checks, {
        "accuracy": {"value": float(is_right.mean()), "correct": int(is_right.sum()), "number": len(labels)},
        "compared_with": compared,
        "latency": {"seconds": seconds[own.name], "num_images": settings.latency_images, "compared_with": others},
    }
