"""The built-in data set: seeded, balanced, and not for a linear classifier."""

from typing import Any

import pytest
import torch

from cifar10.data.image_dataset import DataError
from cifar10.data.shapes import shapes


def test_the_same_seed_draws_the_same_data() -> None:
    first, again, other = (
        shapes(train_size=50, validation_size=10, test_size=10, seed=seed).digest for seed in (0, 0, 1)
    )
    assert first == again != other


def test_the_size_of_one_split_does_not_change_another() -> None:
    small, large = (shapes(train_size=size, validation_size=20, test_size=30) for size in (50, 100))
    assert torch.equal(small.test.images[:], large.test.images[:])
    assert torch.equal(small.validation.images[:], large.validation.images[:])


def test_classes_are_balanced() -> None:
    data = shapes(train_size=200, validation_size=50, test_size=100)
    assert torch.bincount(data.train.labels).tolist() == [20] * 10
    assert torch.bincount(data.test.labels).tolist() == [10] * 10


def test_a_linear_classifier_cannot_learn_it() -> None:
    data = shapes(train_size=3000, validation_size=0, test_size=500)
    inputs, tests = ((split.images[:].flatten(1).float() / 255 - 0.5) for split in (data.train, data.test))
    targets = torch.nn.functional.one_hot(data.train.labels, 10).float()
    ridge = inputs.T @ inputs + 100 * torch.eye(inputs.shape[1])
    weights = torch.linalg.solve(ridge, inputs.T @ targets)  # the best linear answer, in closed form
    accuracy = float(((tests @ weights).argmax(dim=1) == data.test.labels).float().mean())
    assert accuracy < 0.3


@pytest.mark.parametrize("size", ["train_size", "validation_size", "test_size"])
@pytest.mark.parametrize("number", [10**10, 10**400], ids=["ten billion", "400 digits"])
def test_more_images_than_memory_holds_are_refused_before_anything_is_drawn(size: str, number: int) -> None:
    sizes: dict[str, Any] = {size: number}
    with pytest.raises(DataError, match=rf"GB are free; choose a smaller data_loading\.{size}"):
        shapes(**sizes)


def test_a_limit_of_the_process_s_memory_counts_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cifar10.system.limits.resource.getrlimit", lambda _: (2**20, 2**20))
    with pytest.raises(DataError, match=r"only 0\.0 GB are free"):
        shapes()
