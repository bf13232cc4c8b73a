"""The data contract: disjoint, stratified, seeded splits, and a digest that tells data apart."""

import pytest
import torch

from cifar10.data.image_dataset import DataError, ImageDataset, Split, hold_out


def make_split(num_images: int, num_classes: int = 3, seed: int = 0) -> Split:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (num_images, 3, 8, 8), generator=generator, dtype=torch.uint8)
    return Split(images, torch.arange(num_images) % num_classes)


def make_data(seed: int = 0) -> ImageDataset:
    return ImageDataset("toy", ("a", "b", "c"), make_split(30, seed=seed), make_split(6, seed=1), make_split(9, seed=2))


def test_hold_out_parts_the_pool_without_overlap_or_loss() -> None:
    pool = make_split(100)
    train, validation = hold_out(pool, 20, seed=0)
    rows = torch.cat([train.images[:], validation.images[:]]).flatten(1).unique(dim=0)
    assert (len(train), len(validation), len(rows)) == (80, 20, 100)


def test_hold_out_takes_each_class_in_its_share() -> None:
    labels = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
    pool = Split(make_split(100).images, labels)
    _, validation = hold_out(pool, 10, seed=3)
    assert torch.bincount(validation.labels).tolist() == [6, 3, 1]


def test_hold_out_follows_from_its_seed() -> None:
    pool = make_split(90)
    first, again, other = (hold_out(pool, 30, seed)[1].images[:] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_holding_out_everything_is_refused() -> None:
    with pytest.raises(DataError, match="leaves nothing to train on"):
        hold_out(make_split(10), 10, seed=0)


def test_digest_changes_with_a_pixel_a_label_and_a_name() -> None:
    data = make_data()
    pixel, label = make_data(), make_data()
    pixel.test.images[:][0, 0, 0, 0] += 1
    label.train.labels[0] = 2
    renamed = ImageDataset(data.name, ("a", "b", "d"), data.train, data.validation, data.test)
    assert len({data.digest, pixel.digest, label.digest, renamed.digest}) == 4
    assert make_data().digest == data.digest


def test_a_class_named_twice_is_refused() -> None:
    data = make_data()
    with pytest.raises(DataError, match="names a class twice"):
        ImageDataset("toy", ("a", "a", "c"), data.train, data.validation, data.test)


def test_a_label_beyond_the_classes_is_refused() -> None:
    data = make_data()
    with pytest.raises(DataError, match="beyond its 2 classes"):
        ImageDataset("toy", ("a", "b"), data.train, data.validation, data.test)
