"""The nearest of many unit vectors to each of many others, exactly, by matrix products of blocks.

Shapes: Q queries, N vectors, D numbers in a vector, k neighbours.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

_BLOCK = 2**25  # similarities in memory at a time: 128 MB
_ROWS = 2048


class Neighbours(NamedTuple):
    """The nearest vectors of each query, most similar first."""

    similarities: Tensor
    """float32 (Q, k): cosines."""
    indices: Tensor
    """int64 (Q, k)."""


def nearest(queries: Tensor, vectors: Tensor, k: int, title: str = "", are_same: bool = False) -> Neighbours:
    """Return the `k` nearest of `vectors` to each of `queries`, or all if there are fewer.

    Args:
        queries: float32 (Q, D), of length 1.
        vectors: float32 (N, D), of length 1.
        k: Number of neighbours.
        title: Of the progress bar.
        are_same: Query number i belongs to vector number i, which is not its neighbour.
    """
    num = len(vectors)
    rows = max(1, min(_ROWS, _BLOCK // max(num, 1)))
    k = min(k, num - are_same)
    similarities, indices = torch.empty(len(queries), k), torch.empty(len(queries), k, dtype=torch.int64)
    with tqdm(total=len(queries), desc=title, unit=" images", disable=None, leave=False) as bar:
        for start in range(0, len(queries), rows):
            block = queries[start : start + rows]
            products = block @ vectors.T
            if are_same:
                own = torch.arange(len(block))
                products[own, start + own] = -2.0
            found = products.topk(k, dim=1)
            similarities[start : start + rows], indices[start : start + rows] = found.values, found.indices
            bar.update(len(block))
    return Neighbours(similarities, indices)
