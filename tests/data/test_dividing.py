"""Images without splits are divided by their content: each class in its share, copies together, and stably."""

import numpy as np
import pytest
import torch

from cifar10.data.dividing import divide
from cifar10.data.image_dataset import Split

SIZE = 32


def make_pool(counts: dict[int, int], seed: int = 0) -> Split:
    """Return smooth random pictures, `counts[label]` of each class."""
    generator = torch.Generator().manual_seed(seed)
    num = sum(counts.values())
    coarse = torch.rand(num, 3, 6, 6, generator=generator) * 255
    images = torch.nn.functional.interpolate(coarse, size=SIZE, mode="bicubic").clamp(0, 255).to(torch.uint8)
    labels = torch.tensor([label for label, count in counts.items() for _ in range(count)])
    return Split(images, labels)


def join(*pools: Split) -> Split:
    return Split(torch.cat([p.images[:] for p in pools]), torch.cat([p.labels for p in pools]))


def places(pool: Split, seed: int = 0) -> dict[bytes, str]:
    """Return the split of each image, by its bytes."""
    parts = divide(pool, 0.1, 0.2, seed)[:3]
    return {
        image.numpy().tobytes(): name
        for name, split in zip(("train", "validation", "test"), parts, strict=True)
        for image in split.images[:]
    }


def test_each_class_has_its_share_in_each_split() -> None:
    train, validation, test, _ = divide(make_pool({0: 100, 1: 40, 2: 10}), 0.1, 0.2, seed=0)
    assert torch.bincount(test.labels).tolist() == [20, 8, 2]
    assert torch.bincount(validation.labels).tolist() == [8, 3, 1]
    assert torch.bincount(train.labels).tolist() == [72, 29, 7]


def test_few_images_are_enough_for_training_and_testing() -> None:
    train, validation, test, _ = divide(make_pool({0: 2, 1: 3, 2: 4, 3: 1}), 0.1, 0.2, seed=0)
    assert torch.bincount(test.labels, minlength=4).tolist() == [1, 1, 1, 0]
    assert torch.bincount(validation.labels, minlength=4).tolist() == [0, 0, 1, 0]
    assert torch.bincount(train.labels).tolist() == [1, 2, 2, 1]


def test_the_order_of_the_files_does_not_matter_and_the_seed_does() -> None:
    pool = make_pool({0: 30, 1: 30})
    shuffled = pool.take(torch.randperm(60, generator=torch.Generator().manual_seed(5)))
    assert places(pool) == places(shuffled)
    assert places(pool) != places(pool, seed=1)


def test_each_added_image_moves_at_most_one_of_its_class_and_none_of_another() -> None:
    pool, added = make_pool({0: 50, 1: 50}), make_pool({0: 5}, seed=9)
    before, after = places(pool), places(join(pool, added))
    moved = [key for key in before if before[key] != after[key]]
    of_class = {image.numpy().tobytes(): int(label) for image, label in zip(pool.images[:], pool.labels, strict=True)}
    assert {of_class[key] for key in moved} <= {0}
    assert sum(before[key] == "test" for key in moved) <= 5
    assert len(moved) <= 2 * 5  # across each of two borders


@pytest.mark.parametrize("change", ["same", "brighter", "noise"])
def test_copies_and_near_copies_stay_in_one_split(change: str) -> None:
    pool = make_pool({0: 40, 1: 40})
    images = pool.images[:].to(torch.int16)
    if change == "brighter":
        images = images + 1
    if change == "noise":
        images = images + torch.randint(-3, 4, images.shape, generator=torch.Generator().manual_seed(1))
    copies = Split(images.clamp(0, 255).to(torch.uint8), pool.labels)
    parts = divide(join(pool, copies), 0.1, 0.2, seed=0)
    of_split = [split.images[:].float().flatten(1) for split in parts[:3]]
    for one in range(3):
        assert (torch.cdist(of_split[one], of_split[one]) < 600).sum() == 2 * len(of_split[one])  # itself and its copy
        for other in range(one):
            assert torch.cdist(of_split[one], of_split[other]).min() > 600
    assert parts[3] == 80


def test_different_pictures_are_not_taken_for_copies() -> None:
    assert divide(make_pool({0: 500, 1: 500}), 0.1, 0.2, seed=0)[3] == 0


def test_plain_pictures_of_other_colours_are_not_copies() -> None:
    colours = np.linspace(0, 250, 40, dtype=np.uint8)
    images = torch.from_numpy(np.repeat(colours, 3 * SIZE * SIZE).reshape(40, 3, SIZE, SIZE))
    assert divide(Split(images, torch.arange(40) % 2), 0.1, 0.2, seed=0)[3] == 0


def test_a_picture_of_two_classes_is_in_one_split() -> None:
    pool = make_pool({0: 20})
    parts = divide(join(pool, Split(pool.images, pool.labels + 1)), 0.1, 0.2, 0)[:3]
    train, validation, test = ({image.numpy().tobytes() for image in split.images[:]} for split in parts)
    assert test and not train & test and not train & validation and not validation & test
