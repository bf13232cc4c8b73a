"""What a misspelt name is taken for."""

import pytest

from cifar10.suggest import did_you_mean, nearest

KEYS = [
    "seed",
    "model",
    "data_loading",
    "optimizer.lr",
    "training.epochs",
    "training.batch_size",
    "evaluation.batch_size",
]
FLAGS = ["test_dir", "checkpoint_name", "output", "format", "top_k", "batch_size", "export_images"]


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("training.epcohs", "training.epochs"),
        ("epochs", "training.epochs"),
        ("trainin.epoch", "training.epochs"),
        ("batch-size", "training.batch_size"),
        ("BATCH_SIZE", "training.batch_size"),
        ("modle", "model"),
        ("network", "model"),
        ("dataset", "data_loading"),
        ("learning_rate", "optimizer.lr"),
        ("optimiser.learning_rate", "optimizer.lr"),
        ("sed", "seed"),
        ("xyzzy", None),
        ("", None),
    ],
)
def test_a_setting_is_found_by_its_name_or_its_last_part(name: str, known: str | None) -> None:
    assert nearest(name, KEYS) == known


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("testdir", "test_dir"),
        ("test-dir", "test_dir"),
        ("dir", "test_dir"),
        ("checkpoint", "checkpoint_name"),
        ("ckpt", "checkpoint_name"),
        ("out", "output"),
        ("topk", "top_k"),
        ("batchsize", "batch_size"),
        ("images", "export_images"),
        ("verbose", None),
    ],
)
def test_a_flag_is_found_by_a_part_of_it(name: str, known: str | None) -> None:
    assert nearest(name, FLAGS) == known


def test_nothing_is_asked_if_nothing_is_alike() -> None:
    assert did_you_mean("xyzzy", KEYS) == ""
    assert did_you_mean("modle", KEYS) == "; did you mean model?"
