"""The built-in data set: seeded, balanced, and not for a linear classifier."""

import torch

from cifar10.data.shapes import shapes


def test_the_same_seed_draws_the_same_data() -> None:
    first, again, other = (
        shapes(train_size=50, validation_size=10, test_size=10, seed=seed).digest for seed in (0, 0, 1)
    )
    assert first == again != other


def test_the_size_of_one_split_does_not_change_another() -> None:
    small, large = (shapes(train_size=size, validation_size=20, test_size=30) for size in (50, 100))
    assert torch.equal(small.test.images, large.test.images)
    assert torch.equal(small.validation.images, large.validation.images)


def test_classes_are_balanced() -> None:
    data = shapes(train_size=200, validation_size=50, test_size=100)
    assert torch.bincount(data.train.labels).tolist() == [20] * 10
    assert torch.bincount(data.test.labels).tolist() == [10] * 10


def test_a_linear_classifier_cannot_learn_it() -> None:
    data = shapes(train_size=3000, validation_size=0, test_size=500)
    inputs, tests = ((split.images.flatten(1).float() / 255 - 0.5) for split in (data.train, data.test))
    targets = torch.nn.functional.one_hot(data.train.labels, 10).float()
    ridge = inputs.T @ inputs + 100 * torch.eye(inputs.shape[1])
    weights = torch.linalg.solve(ridge, inputs.T @ targets)  # the best linear answer, in closed form
    accuracy = float(((tests @ weights).argmax(dim=1) == data.test.labels).float().mean())
    assert accuracy < 0.3
