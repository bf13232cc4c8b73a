"""Each image is judged by a network that has not seen it, and flipped labels are found."""

import numpy as np
import pytest
import torch

from cifar10.analysis.label_issues import find_label_issues
from cifar10.config.build import build
from cifar10.config.compose import load_config
from cifar10.config.targets import DATA
from cifar10.data.image_dataset import Split
from cifar10.training.out_of_fold import assign_folds, out_of_fold_probabilities

WORDS = (
    *("experiment=explore", "data_loading=shapes", "data_loading.image_size=16", "data_loading.train_size=800"),
    *("data_loading.validation_size=0", "data_loading.test_size=10", "model=simple_cnn", "training.epochs=16"),
    *("training.batch_size=50", "training.resizing=[]", "optimizer=adamw", "schedule=one_cycle", "augmentation=none"),
)


def test_each_class_is_spread_over_all_folds() -> None:
    labels = np.repeat([0, 1, 2], [10, 4, 23])
    folds = assign_folds(labels, 4, seed=0)
    for label, count in enumerate([10, 4, 23]):
        sizes = np.bincount(folds[labels == label], minlength=4)
        assert sizes.sum() == count and sizes.max() - sizes.min() <= 1
    assert (assign_folds(labels, 4, seed=0) == folds).all() and (assign_folds(labels, 4, seed=1) != folds).any()


@pytest.mark.slow
def test_flipped_labels_are_ranked_first(capsys: object) -> None:
    torch.set_num_threads(1)
    config = load_config(WORDS)
    data = build(DATA, config.data_loading)
    labels = data.train.labels.clone()
    flipped = torch.arange(5, 800, 80)
    labels[flipped] = (labels[flipped] + 3) % 10
    pool = Split(data.train.images, labels)
    probabilities = out_of_fold_probabilities(config, pool, data.class_names, num_folds=2)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-4)
    right = probabilities.argmax(axis=1) == data.train.labels.numpy()
    assert right.mean() > 0.5
    found = set(find_label_issues(labels.numpy(), probabilities).ranking()[:80].tolist())
    assert len(found & set(flipped.tolist())) >= 7  # of 10, where chance is 1


@pytest.mark.slow
def test_nothing_is_learned_from_the_images_that_are_judged() -> None:
    """With labels at random, an image's own label is no more probable than others."""
    torch.set_num_threads(1)
    config = load_config([*WORDS, "training.epochs=8", "data_loading.train_size=200"])
    data = build(DATA, config.data_loading)
    labels = torch.randint(0, 10, (200,), generator=torch.Generator().manual_seed(0))
    probabilities = out_of_fold_probabilities(config, Split(data.train.images, labels), data.class_names, 2)
    assert probabilities[np.arange(200), labels.numpy()].mean() < 0.15


def test_the_most_suspect_label_is_the_one_contradicted_most() -> None:
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.05, 0.95], [0.6, 0.4]], np.float32)
    issues = find_label_issues(np.array([0, 0, 0, 1]), probabilities)
    assert issues.ranking().tolist() == [2, 1, 3, 0]
    assert issues.suggested.tolist() == [0, 1, 1, 0]
    np.testing.assert_allclose(issues.suspicion, [-0.8, 0.6, 0.9, 0.2], atol=1e-5)
