"""Find copies and near-copies of one picture, such as another size, format or compression of it.

A fingerprint is computed once for each image: a hash of its pixels, a gradient hash (whether each cell of a small grey
image is brighter than the next one, https://www.hackerfactor.com/blog/index.php?/archives/529-Kind-of-Like-That.html),
and a thumbnail. Two images are near-copies if at most `_MOST_BITS` bits of their gradient hashes differ and their
thumbnails differ by at most `_MOST_DIFFERENCE` on average: the hash finds candidates quickly, the thumbnail decides.

Shapes: N images of S x S pixels.
"""

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cifar10.data.stored_images import Images, StoredImages

FINGERPRINT = np.dtype([("digest", "u1", (16,)), ("gradients", "<u8"), ("thumbnail", "u1", (8, 8, 3))])
"""BLAKE2b of the pixels (3, S, S); one bit for each of 8 x 8 gradients; RGB of an 8 x 8 thumbnail."""

_MOST_BITS = 3  # of 64; the bands below find all pairs up to this number
_MOST_DIFFERENCE = 3.0  # levels of 255, mean over the thumbnail; JPEG at quality 60 changes about 1
_BAND_BITS = 16  # four bands: with three wrong bits one band is still equal
_MOST_IN_BAND = 4096  # images with an equal band; more are plain pictures, whose bits are noise


def fingerprint(pixels: NDArray[np.uint8]) -> NDArray[Any]:
    """Return the fingerprint of an image, uint8 (3, S, S), as an array () of type `FINGERPRINT`."""
    picture = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    grey = np.asarray(picture.convert("L").resize((9, 8), Image.Resampling.BOX), np.int16)
    bits = np.packbits(grey[:, 1:] > grey[:, :-1]).view("<u8")[0]
    digest = hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=16).digest()
    result = np.zeros((), FINGERPRINT)
    result["digest"], result["gradients"] = np.frombuffer(digest, np.uint8), bits
    result["thumbnail"] = np.asarray(picture.resize((8, 8), Image.Resampling.BOX))
    return result


def fingerprints_of(images: Images) -> NDArray[Any]:
    """Return the fingerprint of each of `images`, (N,); those of stored images were computed when they were decoded."""
    if isinstance(images, StoredImages):
        return images.fingerprints
    return np.array([fingerprint(image.numpy()) for image in images], FINGERPRINT)


def pixel_digests(images: Images) -> list[bytes]:
    """Return a hash of the pixels of each image: equal if and only if the pixels are."""
    if isinstance(images, StoredImages):
        return [digest.tobytes() for digest in images.fingerprints["digest"]]
    return [_digest(image) for image in images]


def _digest(image: Tensor) -> bytes:
    return hashlib.blake2b(image.contiguous().numpy().data, digest_size=16).digest()


def duplicate_groups(fingerprints: NDArray[Any]) -> NDArray[np.int64]:
    """Return the number of the group of each image, (N,). Copies and near-copies, also of each other's, share one."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    num = len(fingerprints)
    pairs = [_equal_neighbours(fingerprints["digest"].view("V16").ravel()), *_near_copies(fingerprints)]
    first, second = np.concatenate(pairs, axis=1)
    graph = coo_array((np.ones(len(first), np.int8), (first, second)), shape=(num, num))
    groups: NDArray[np.int64] = connected_components(graph, directed=False)[1].astype(np.int64)
    return groups


def _equal_neighbours(keys: NDArray[Any]) -> NDArray[np.int64]:
    """Return pairs (2, P) that connect all positions of the same key."""
    order = np.argsort(keys, kind="stable")
    same = keys[order][1:] == keys[order][:-1]
    return np.stack([order[:-1][same], order[1:][same]])


def _near_copies(fingerprints: NDArray[Any]) -> Iterator[NDArray[np.int64]]:
    """Yield pairs (2, P) of near-copies."""
    bits = np.ascontiguousarray(fingerprints["gradients"])
    thumbnails = fingerprints["thumbnail"].reshape(len(bits), -1).astype(np.int16)
    for shift in range(0, 64, _BAND_BITS):
        band = (bits >> np.uint64(shift)) & np.uint64(2**_BAND_BITS - 1)
        order = np.argsort(band, kind="stable")
        starts = np.flatnonzero(np.diff(band[order], prepend=band[order][:1] + np.uint64(1)))
        for members in np.split(order, starts[1:]):
            if 1 < len(members) <= _MOST_IN_BAND:
                yield _pairs_within(members, bits, thumbnails)


def _pairs_within(
    members: NDArray[np.int64], bits: NDArray[np.uint64], thumbnails: NDArray[np.int16]
) -> NDArray[np.int64]:
    found = [np.empty((2, 0), np.int64)]
    for place, member in enumerate(members[:-1]):
        others = members[place + 1 :]
        others = others[np.bitwise_count(bits[others] ^ bits[member]) <= _MOST_BITS]
        if len(others):
            differences = np.abs(thumbnails[others] - thumbnails[member]).mean(axis=1)
            others = others[differences <= _MOST_DIFFERENCE]
            found.append(np.stack([np.full(len(others), member), others]))
    return np.concatenate(found, axis=1)
