"""Fewer multiplications for the same convolution: exact on paper, and close in float32."""

from fractions import Fraction

import numpy as np
import pytest

from cifar10.kernels import winograd
from cifar10.kernels.winograd import LARGEST_TILE, TAPS, transform_matrices

TILES = range(1, LARGEST_TILE + 1)


def correlate(inputs: np.ndarray, taps: np.ndarray) -> np.ndarray:
    """Return the results of a filter over `inputs` (n, n), by the definition."""
    size = len(inputs) - TAPS + 1
    return np.array([[(inputs[y : y + TAPS, x : x + TAPS] * taps).sum() for x in range(size)] for y in range(size)])


@pytest.mark.parametrize("tile", TILES)
def test_the_transforms_give_the_convolution(tile: int) -> None:
    results, taps, inputs = transform_matrices(tile)
    random = np.random.default_rng(0)
    window, filters = random.normal(size=(tile + 2, tile + 2)), random.normal(size=(TAPS, TAPS))
    products = (taps @ filters @ taps.T) * (inputs @ window @ inputs.T)
    np.testing.assert_allclose(results @ products @ results.T, correlate(window, filters), rtol=0, atol=1e-11)


@pytest.mark.parametrize(("tile", "bound"), [(2, 5e-7), (3, 7e-7), (4, 1.5e-6), (5, 2.5e-6), (6, 4e-6), (7, 1e-5)])
def test_float32_rounds_no_more_than_is_said(tile: int, bound: float) -> None:
    results, taps, inputs = (matrix.astype(np.float32) for matrix in transform_matrices(tile))
    random = np.random.default_rng(0)
    channels, num_filters, length = 64, 16, tile + 2
    windows = random.normal(size=(channels, length, length)).astype(np.float32)
    filters = random.normal(size=(num_filters, channels, TAPS, TAPS)).astype(np.float32)
    tiles, transformed = inputs @ windows @ inputs.T, taps @ filters @ taps.T
    found = results @ (tiles * transformed).sum(axis=1) @ results.T
    exact = np.array([sum(correlate(windows[c], f[c]) for c in range(channels)) for f in filters.astype(float)])
    assert np.sqrt(((found - exact) ** 2).mean() / (exact**2).mean()) < bound


@pytest.mark.parametrize(("tile", "num_pairs"), [(3, 2), (4, 2), (5, 3), (6, 3), (7, 4)])
def test_points_of_opposite_sign_can_share_their_arithmetic(tile: int, num_pairs: int) -> None:
    rows = transform_matrices(tile)[0].T.astype(np.float32)
    pairs = [(i, j) for i in range(len(rows)) for j in range(i) if (abs(rows[i]) == abs(rows[j])).all()]
    assert len(pairs) == num_pairs


def noise(tile: int) -> float:
    """Return how much larger the noise in a row of results is than that of the products, if factors are rounded."""
    results, taps, inputs = transform_matrices(tile)
    of_products = (taps**2).sum(axis=1) * (inputs**2).sum(axis=1)
    return float(np.sqrt((results**2 @ of_products).mean() / TAPS))


@pytest.mark.parametrize("tile", TILES[2:])
@pytest.mark.parametrize("factor", [Fraction(5, 6), Fraction(6, 5)])
def test_other_points_would_amplify_rounding_more(tile: int, factor: Fraction, monkeypatch: pytest.MonkeyPatch) -> None:
    points, least = winograd._POINTS[tile], noise(tile)
    for size in {abs(point) for point in points} - {0}:
        changed = [point * factor if abs(point) == size else point for point in points]
        monkeypatch.setitem(winograd._POINTS, tile, changed)
        transform_matrices.cache_clear()
        assert noise(tile) > 0.99 * least  # the best points lie between fractions as simple as these
    monkeypatch.undo()
    transform_matrices.cache_clear()
