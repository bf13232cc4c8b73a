"""Planted near-duplicates come first, however they were changed; alignment finds the map; neighbours are exact."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cifar10.analysis.alignment import align, blur
from cifar10.analysis.descriptors import descriptors_of, grey, thumbnails_of
from cifar10.analysis.near_duplicates import duplicate_clusters, exact_copies, rank_near_duplicates
from cifar10.analysis.neighbours import nearest
from tests.pictures import brighter, moved, scene

NUM = 120


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def stacked(pictures: list[NDArray[np.uint8]]) -> torch.Tensor:
    return thumbnails_of(torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2))


def with_bar(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    barred = pixels.copy()
    barred[-6:] = 255
    return barred


CHANGES: dict[str, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    "moved": lambda pixels: moved(pixels, 5, 3),
    "mirrored": lambda pixels: pixels[:, ::-1].copy(),
    "brighter": lambda pixels: brighter(pixels, 0.6, 60),
    "in other colours": lambda pixels: pixels[:, :, ::-1].copy(),
    "with a white bar": with_bar,
    "smaller": lambda pixels: pixels[::2, ::2].repeat(2, axis=0).repeat(2, axis=1),
    "all of it": lambda pixels: brighter(moved(pixels[:, ::-1], 3, 4), 0.7, 20),
}


@pytest.mark.slow
def test_planted_near_duplicates_are_ranked_first() -> None:
    pictures = [scene(seed) for seed in range(NUM)] + [change(scene(n)) for n, change in enumerate(CHANGES.values())]
    ranked = rank_near_duplicates(stacked(pictures))
    best = {(int(a), int(b)) for a, b in zip(ranked.first[: len(CHANGES)], ranked.second[: len(CHANGES)], strict=True)}
    assert best == {(number, NUM + number) for number in range(len(CHANGES))}
    is_mirrored = {int(b): bool(m) for b, m in zip(ranked.second[:7], ranked.is_mirrored[:7], strict=True)}
    names = [name for number, name in enumerate(CHANGES) if is_mirrored[NUM + number]]
    assert names == ["mirrored", "all of it"]
    assert ranked.score[len(CHANGES) - 1] > ranked.score[len(CHANGES)] + 0.3  # a gap that an eye sees
    assert (np.diff(ranked.score) <= 0).all() and (ranked.first < ranked.second).all()
    assert len(np.unique(np.stack([ranked.first, ranked.second]), axis=1).T) == len(ranked)


@pytest.mark.slow
def test_plain_pictures_are_not_near_duplicates_of_each_other() -> None:
    """Skies are nearer to each other than a scene is to its changed copy, but do not stand out."""
    generator = np.random.default_rng(0)
    slope = np.linspace(0, 60, 64)[:, None, None] + np.array([80, 120, 180])
    skies = [np.clip(slope + generator.normal(0, 6, (64, 64, 3)), 0, 255).astype(np.uint8) for _ in range(NUM)]
    pictures = [*skies, scene(0), brighter(moved(scene(0), 5, 4), 0.7, 30)]
    ranked = rank_near_duplicates(stacked(pictures))
    assert (ranked.first[0], ranked.second[0]) == (NUM, NUM + 1)


@pytest.mark.parametrize("num", [0, 1, 2, 3])
def test_few_images_are_no_error(num: int) -> None:
    pictures = torch.from_numpy(np.stack([scene(seed) for seed in range(3)])).permute(0, 3, 1, 2)[:num]
    assert len(rank_near_duplicates(thumbnails_of(pictures))) == num * (num - 1) // 2


def test_embeddings_add_to_the_score() -> None:
    pictures = stacked([scene(seed) for seed in range(60)])
    embeddings = np.random.default_rng(0).normal(size=(60, 16)).astype(np.float32)
    embeddings[40] = embeddings[7]
    ranked = rank_near_duplicates(pictures, embeddings)
    assert (ranked.first[0], ranked.second[0]) == (7, 40)


def test_a_map_is_found_and_its_images_agree() -> None:
    one = grey(torch.from_numpy(np.stack([scene(seed, 48) for seed in range(8)])).permute(0, 3, 1, 2))
    shifted = one[:, 10:42, 7:39]
    aligned = align(one[:, 8:40, 8:40], 0.5 * shifted + 40)
    right, down = aligned.maps[:, 2] - 1, aligned.maps[:, 5] + 2  # pixels beside the truth
    assert ((right.abs() < 0.25) & (down.abs() < 0.25)).sum() >= 7
    assert aligned.maps[:, [0, 1, 3, 4]].abs().median() < 0.01
    assert aligned.similarity.median() > 0.6
    others = align(one[:, 8:40, 8:40], shifted.roll(1, dims=0))
    assert others.similarity.median() < 0.1


def test_blur_keeps_means_and_shapes() -> None:
    images = torch.rand(3, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(blur(torch.full_like(images, 7.0), 2.0), torch.full_like(images, 7.0))
    assert blur(images, 1.0).var() < images.var() / 4
    torch.testing.assert_close(blur(images.mT, 1.0), blur(images, 1.0).mT)


def test_neighbours_are_those_of_all_distances() -> None:
    generator = torch.Generator().manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(300, 8, generator=generator), dim=1)
    found = nearest(vectors, vectors, 5, are_same=True)
    products = (vectors @ vectors.T).fill_diagonal_(-2)
    torch.testing.assert_close(found.similarities, products.sort(dim=1, descending=True).values[:, :5])
    assert (found.indices != torch.arange(300)[:, None]).all()
    assert nearest(vectors[:3], vectors[:2], 5).indices.shape == (3, 2)


def test_descriptors_of_mirrored_images_are_the_mirrored_descriptors() -> None:
    thumbnails = stacked([scene(seed) for seed in range(5)])
    for plain, mirrored in zip(descriptors_of(thumbnails), descriptors_of(thumbnails.flip(3)), strict=True):
        assert plain.mirrored is not None
        torch.testing.assert_close(plain.mirrored, mirrored.vectors, atol=1e-5, rtol=0)
        torch.testing.assert_close(plain.vectors.norm(dim=1), torch.ones(5))
        assert not torch.allclose(plain.mirrored, plain.vectors, atol=0.1)


def test_copies_and_clusters_are_grouped() -> None:
    digests = [b"a", b"b", b"a", b"c", b"b", b"a"]
    assert [group.tolist() for group in exact_copies(digests)] == [[0, 2, 5], [1, 4]]
    pictures = [scene(seed) for seed in range(40)]
    copies = [brighter(scene(3), 0.8, 10), moved(scene(3), 3, 2), brighter(scene(9), 0.8, 10)]
    ranked = rank_near_duplicates(stacked(pictures + copies))
    clusters = duplicate_clusters(ranked.take(ranked.similarity > 0.7), 43)
    assert [sorted(group.tolist()) for group in clusters] == [[3, 40, 41], [9, 42]]
