"""Digests of a test split, to find out whether two networks can be tested on the same images."""

import hashlib

import numpy as np

from cifar10.data.image_dataset import ImageDataset
from cifar10.data.stored_images import parts_of


def digests_of_test(data: ImageDataset) -> tuple[str, ...]:
    """Return digests of the test split; two splits that share one hold the same images in the same order.

    The first is the SHA-256 of pixels and labels, the second, if the images are from files, that of their names and
    labels, for networks that take images of other sizes. Neither depends on the order of the classes.
    """
    order = np.argsort(np.array(data.class_names, dtype=object), kind="stable")
    labels = np.argsort(order)[data.test.labels.numpy()]  # independent of the order of the classes
    about = "\0".join(sorted(data.class_names)).encode() + labels.astype(np.int64).tobytes()
    pixels = hashlib.sha256(about)
    for part in parts_of(data.test.images):
        pixels.update(str(tuple(part.shape[1:])).encode())
        pixels.update(part.contiguous().numpy().data)
    if data.test.files is None:
        return (pixels.hexdigest(),)
    names = "\0".join(data.test.files).encode(errors="replace")
    return pixels.hexdigest(), hashlib.sha256(about + names).hexdigest()
