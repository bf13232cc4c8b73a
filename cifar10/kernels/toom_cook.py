"""Matrices that turn a 3-tap filter's products into fewer: Toom-Cook, known to this field as Winograd convolution.

m neighbouring results of a 3-tap filter need 3 m products, or m + 2: inputs d (m + 2,) and filter g (3,) are evaluated
at m + 2 points, multiplied there, and interpolated: y = A ((G g) * (B d)). In two dimensions the same from both sides.
A. Lavin and S. Gray, "Fast Algorithms for Convolutional Neural Networks" (2015), https://arxiv.org/abs/1509.09308.

The points decide how much rounding is amplified. With those below, in float32, results are off by 1e-6 to 3e-6 of
their size for m up to 6 and by 2e-5 for m = 7 (tests/test_toom_cook.py); bfloat16, in which such networks are trained
without harm, is off by 4e-3.
"""

import functools
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]

TAPS = 3

_HALF, _NEAR, _FAR = Fraction(1, 2), Fraction(5, 8), Fraction(8, 5)
_POINTS: dict[int, list[int | Fraction]] = {  # beside infinity; pairs +-p share half of their arithmetic
    1: [0, 1],
    2: [0, 1, -1],
    3: [0, 1, -1, _HALF],
    4: [0, 1, -1, _HALF, -2],
    5: [0, 1, -1, _HALF, -_HALF, -2],
    6: [0, 1, -1, 2, -2, _HALF, -_HALF],
    7: [0, 1, -1, _NEAR, -_NEAR, _FAR, -_FAR, Fraction(1, 4)],
}
LARGEST_TILE = max(_POINTS)


@functools.cache
def matrices(num_results: int) -> tuple[Matrix, Matrix, Matrix]:
    """Return A (m, m + 2), G (m + 2, 3) and B (m + 2, m + 2) for m results at once, in 1 .. LARGEST_TILE."""
    length = num_results + TAPS - 1
    results, taps = _powers(num_results, num_results).T, _powers(num_results, TAPS)
    inputs = np.linalg.inv(_powers(num_results, length)).T
    # Each point's three rows may be scaled if the product stays: powers of two that make them about equally long.
    lengths = [np.linalg.norm(results, axis=0), np.linalg.norm(taps, axis=1), np.linalg.norm(inputs, axis=1)]
    even = np.prod(lengths, axis=0) ** (1 / 3)
    of_taps, of_inputs = (2.0 ** np.round(_even_out(np.log2(even / own), num_results)) for own in lengths[1:])
    inputs = np.where(np.abs(inputs) < 1e-12, 0.0, inputs.round(14))  # zeros, and pairs, as exact as they are on paper
    return results / (of_taps * of_inputs), taps * of_taps[:, None], inputs * of_inputs[:, None]


def _even_out(values: NDArray[np.float64], num_results: int) -> NDArray[np.float64]:
    """Give both points of a pair +-p the mean of their values, or they could not share arithmetic."""
    sizes = [abs(point) for point in _POINTS[num_results]] + [-1]
    return np.array(
        [np.mean([value for value, other in zip(values, sizes, strict=True) if other == size]) for size in sizes]
    )


def _powers(num_results: int, count: int) -> Matrix:
    """Return (m + 2, count): each point's powers 0 .. count - 1; infinity's are 0 but for the last."""
    points = [[float(point) ** power for power in range(count)] for point in _POINTS[num_results]]
    return np.array([*points, [0.0] * (count - 1) + [1.0]])
