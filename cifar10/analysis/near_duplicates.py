"""Near-duplicates: the same picture again, moved, scaled, cropped, mirrored, brighter, or compressed otherwise.

1. Candidates: the nearest neighbours of each image and of its mirror image, by each kind of descriptor.
2. How much a candidate stands out: its distance relative to that of the neighbours that are not candidates, of both
   images. Plain pictures, such as aircraft in a blue sky, are near to very many others, and so do not stand out.
3. A second look at those that stand out most: the images are aligned and compared place by place.

The result is a ranking. Nothing in it was learned from lists of known duplicates.

Shapes: N images, P pairs.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from cifar10.analysis.alignment import align
from cifar10.analysis.descriptors import Descriptor, descriptors_of, grey
from cifar10.analysis.neighbours import nearest

_CANDIDATES = 16  # neighbours of an image
_MIRRORED = 4  # of its mirror image
_NEIGHBOURS = 48  # those behind the candidates tell how near other images are in general
_ALIGNED_PART = 1 / 6  # pairs that are looked at again, per image
_LEAST_ALIGNED = 2000
_FLOOR = 1e-3  # of a distance; smaller ones are noise
_BEST = 1.02  # similarity that is not reached, so that the logarithm is finite
_AT_ONCE = 2**13  # pairs
_ENOUGH = 1000  # embeddings whose mean is subtracted

LIKELY = 1.0
"""Score from which on pairs count as near-duplicates: 2.7 times nearer than others, in the geometric mean."""


@dataclass(frozen=True, eq=False)
class RankedPairs:
    """Pairs of images, those first that are most likely of the same picture."""

    first: NDArray[np.int64]
    """(P,): the image with the lower number."""
    second: NDArray[np.int64]
    """(P,)."""
    score: NDArray[np.float32]
    """(P,), falling: the mean over the kinds of descriptors of the logarithm of how many times nearer they are than
    others. The aligned images count as one more kind, with the negative logarithm of what their similarity lacks."""
    similarity: NDArray[np.float32]
    """(P,), at most 1: correlation of the aligned images."""
    is_mirrored: NDArray[np.bool_]
    """(P,): one is the mirror image of the other."""

    def __len__(self) -> int:
        return len(self.first)

    @property
    def is_likely(self) -> NDArray[np.bool_]:
        """(P,): most such pairs are of the same picture (by eye, on CIFAR-10 and on photographs)."""
        return self.score >= LIKELY

    def take(self, places: NDArray[np.int64] | NDArray[np.bool_]) -> "RankedPairs":
        """Return the pairs at `places`, in their order."""
        return RankedPairs(
            self.first[places],
            self.second[places],
            self.score[places],
            self.similarity[places],
            self.is_mirrored[places],
        )


def rank_near_duplicates(thumbnails: Tensor, embeddings: NDArray[np.float32] | None = None) -> RankedPairs:
    """Return the pairs that are most likely near-duplicates, and copies, ranked.

    Args:
        thumbnails: uint8 (N, 3, 32, 32).
        embeddings: (N, E), of a network, as a further kind of descriptor.
    """
    descriptors = descriptors_of(thumbnails)
    if embeddings is not None:
        descriptors.append(Descriptor("embeddings", _directions(torch.from_numpy(embeddings))))
    if len(thumbnails) < 2:
        return _no_pairs()
    pairs, levels = _candidates(descriptors)
    stand_out = _stand_out(pairs, descriptors, levels)
    num_aligned = max(_LEAST_ALIGNED, int(_ALIGNED_PART * len(thumbnails)))
    chosen = stand_out.argsort(descending=True, stable=True)[:num_aligned]
    first, second, mirrored = pairs[chosen].unbind(1)
    one, other = grey(thumbnails[first]), grey(thumbnails[second])
    one = torch.where(mirrored.bool()[:, None, None], one.flip(2), one)
    similarity = align(one, other).similarity
    score = (stand_out[chosen] - (_BEST - similarity).log()) / (len(descriptors) + 1)
    ranked = RankedPairs(
        first.numpy(), second.numpy(), score.numpy(), similarity.numpy(), mirrored.numpy().astype(np.bool_)
    )
    ranked = ranked.take(np.argsort(-ranked.score, kind="stable"))
    both = ranked.first * len(thumbnails) + ranked.second
    return ranked.take(np.sort(np.unique(both, return_index=True)[1]))  # as they are or mirrored: the better one


def duplicate_clusters(pairs: RankedPairs, num_images: int) -> list[NDArray[np.int64]]:
    """Return the groups, of two images or more, that `pairs` connect, the largest first."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(pairs), np.int8), (pairs.first, pairs.second)), shape=(num_images, num_images))
    groups = connected_components(graph, directed=False)[1]
    members: dict[int, list[int]] = defaultdict(list)
    for image in np.unique(np.concatenate([pairs.first, pairs.second])).tolist():
        members[int(groups[image])].append(image)
    return sorted((np.array(each) for each in members.values()), key=len, reverse=True)


def exact_copies(digests: Sequence[bytes]) -> list[NDArray[np.int64]]:
    """Return the groups, of two images or more, with the same digest, the largest first."""
    places: dict[bytes, list[int]] = defaultdict(list)
    for place, digest in enumerate(digests):
        places[digest].append(place)
    return sorted((np.array(each) for each in places.values() if len(each) > 1), key=len, reverse=True)


def _candidates(descriptors: Sequence[Descriptor]) -> tuple[Tensor, list[Tensor]]:
    """Return candidates, int64 (P, 3): two images, and whether one is mirrored; and levels, (N,) each.

    The level of an image is the mean distance to the neighbours behind its candidates.
    """
    found, levels = [], []
    for descriptor in descriptors:
        vectors = descriptor.vectors
        neighbours = nearest(vectors, vectors, _NEIGHBOURS, f"comparing {descriptor.name}", are_same=True)
        num_behind = max(1, neighbours.similarities.shape[1] - _CANDIDATES)
        levels.append(1 - neighbours.similarities[:, -num_behind:].mean(dim=1))
        found.append(_coded(neighbours.indices[:, :_CANDIDATES], is_mirrored=False))
    for descriptor in descriptors:
        if descriptor.mirrored is not None:
            title = f"comparing mirrored {descriptor.name}"
            neighbours = nearest(descriptor.mirrored, descriptor.vectors, _MIRRORED, title, are_same=True)
            found.append(_coded(neighbours.indices, is_mirrored=True))
            break  # the first kind of descriptor finds most
    codes = torch.unique(torch.cat(found))  # far faster than the unique rows of a matrix
    num = len(levels[0])
    return torch.stack([codes // (2 * num), codes // 2 % num, codes % 2], dim=1), levels


def _directions(embeddings: Tensor) -> Tensor:  # (N, E) -> (N, E), of length 1
    """Return what distinguishes embeddings: without what all have in common, if they are enough to tell."""
    vectors = normalize(embeddings, dim=1)
    if len(vectors) >= _ENOUGH:
        vectors = normalize(vectors - vectors.mean(dim=0), dim=1)
    return vectors


def _coded(indices: Tensor, is_mirrored: bool) -> Tensor:  # (N, k) -> (N * k,)
    """Return each pair of a row and its neighbour as one number, the same for both orders of the two."""
    queries = torch.arange(len(indices))[:, None].expand_as(indices)
    low, high = torch.minimum(queries, indices), torch.maximum(queries, indices)
    return ((low * len(indices) + high) * 2 + is_mirrored).flatten()


def _stand_out(pairs: Tensor, descriptors: Sequence[Descriptor], levels: Sequence[Tensor]) -> Tensor:  # (P,)
    stand_out = torch.zeros(len(pairs))  # filled in place: small results between large blocks would pin those in memory
    for start in range(0, len(pairs), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        first, second, mirrored = pairs[part].unbind(1)
        for descriptor, level in zip(descriptors, levels, strict=True):
            one = descriptor.vectors[first]
            if descriptor.mirrored is not None:
                one = torch.where(mirrored.bool()[:, None], descriptor.mirrored[first], one)
            distance = (1 - (one * descriptor.vectors[second]).sum(dim=1)).clamp(min=0)
            usual = (level[first] * level[second]).clamp(min=0).sqrt()
            stand_out[part] += ((usual + _FLOOR) / (distance + _FLOOR)).log()
    return stand_out


def _no_pairs() -> RankedPairs:
    none = np.empty(0, np.int64)
    return RankedPairs(none, none, np.empty(0, np.float32), np.empty(0, np.float32), np.empty(0, np.bool_))
