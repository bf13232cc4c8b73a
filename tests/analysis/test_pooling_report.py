"""The verdict of a comparison of ways to shrink says what the numbers say, and the page shows them."""

import json
import re

import numpy as np
import pytest
from matplotlib.colors import to_hex
from numpy.typing import NDArray

from cifar10.analysis.network_summary import Layer, NetworkSummary
from cifar10.analysis.pooling_figures import accuracies, class_recalls, difference_figure, live_curves
from cifar10.analysis.pooling_report import begins_in_words, pooling_numbers, pooling_report, size_in_words
from cifar10.analysis.pooling_results import PoolingResults, SeedResult, WayResult
from cifar10.types import QUARTILES, Metrics

NAMES = ("fox", "<b>hare</b>", "owl")
LABELS = {split: np.arange(number) % 3 for split, number in (("train", 90), ("validation", 60), ("test", 600))}


def predictions(labels: NDArray[np.int64], accuracy: float, seed: int) -> NDArray[np.int64]:
    """Return the labels, of which about so many are right."""
    random = np.random.default_rng(seed)
    wrong = random.random(len(labels)) >= accuracy
    return np.where(wrong, (labels + 1 + random.integers(0, 2, len(labels))) % 3, labels)


def epochs(number: int) -> list[Metrics]:
    return [
        {
            "epoch": epoch,
            "seconds": 0.5 + epoch / 100,
            **{f"{split}/{name}": 1 / (epoch + 1) for split in ("train", "val") for name in ("loss", "accuracy")},
            **{
                f"{split}/{name}_{percent}": percent / 100 + epoch
                for split in ("train", "val")
                for name in ("loss", "accuracy")
                for percent in QUARTILES
            },
        }
        for epoch in range(number)
    ]


def compared(test: dict[str, float], validation: dict[str, float], seeds: int = 4) -> PoolingResults:
    """Return results with about these accuracies."""
    ways = []
    for number, way in enumerate(test):
        runs = {
            seed: SeedResult(
                name=f"{way}-{seed}",
                history=epochs(6),
                best_epoch=3,
                predictions={
                    "train": LABELS["train"],
                    "validation": predictions(LABELS["validation"], validation[way], 10 * number + seed),
                    "test": predictions(LABELS["test"], test[way], 10 * number + seed),
                },
                train_seconds=3.0,
            )
            for seed in range(seeds)
        }
        ways.append(WayResult(way, runs))
    return PoolingResults(NAMES, LABELS, ways, {})


def test_a_way_that_is_better_than_all_is_called_so() -> None:
    results = compared({"a": 0.5, "b": 0.8, "c": 0.52}, {"a": 0.5, "b": 0.8, "c": 0.5})
    assert results.winner[0].name == "b"
    first, second, third, last = results.verdict
    assert re.fullmatch(r"b is better than a: \+\d\d\.\d, \+.* to \+.* points\.", first), first
    assert second.startswith("b is better than c: +")
    assert third.startswith("No difference beyond chance between a and c (")
    assert last.startswith("The winner is b, which is right on most validation images (a ")


def test_equal_ways_are_called_equal() -> None:
    results = compared({"a": 0.70, "b": 0.702, "c": 0.701}, {"a": 0.70, "b": 0.90, "c": 0.70})
    none, winner, chance = results.verdict
    assert none == "No difference beyond chance between the ways."
    assert winner.startswith("The winner is b,") and chance == "It may be the winner by chance."


def test_a_winner_that_the_test_images_deny_is_not_praised() -> None:
    results = compared({"a": 0.5, "b": 0.8}, {"a": 0.8, "b": 0.5})
    better, winner, denial = results.verdict
    assert better.startswith("b is better than a: +") and winner.startswith("The winner is a,")
    assert denial.startswith("The test images say otherwise: there b is better beyond chance.")


def test_differences_of_others_than_the_winner_are_told() -> None:
    results = compared({"a": 0.5, "b": 0.8, "c": 0.66}, {"a": 0.5, "b": 0.6, "c": 0.8})
    assert results.winner[0].name == "c"
    told = " ".join(results.verdict)
    assert "b is better than a: +" in told and "c is better than a: +" in told and "there b is better" in told


def summary(parameters: int, multiplications: int, pooled: int = 0) -> NetworkSummary:
    return NetworkSummary((Layer("first", "Conv2d", (8, 4, 4), parameters, multiplications, pooled),))


def test_sizes_are_called_equal_only_if_they_are() -> None:
    equal = size_in_words({"a": summary(10, 1000), "b": summary(10, 1000, 100)})
    assert equal.startswith("All networks have the same number of parameters and of multiplications.")
    assert "up to 100 comparisons" in equal and "5.0% of its FLOPs" in equal
    unequal = size_in_words({"a": summary(10, 1000), "b": summary(15, 3000)})
    assert "not of equal size" in unequal and "a 1.00 and 1.00, b 1.50 and 3.00" in unequal


def test_the_page_and_the_numbers_agree() -> None:
    results = compared({"a": 0.5, "b": 0.8}, {"a": 0.5, "b": 0.8})
    networks = {"a": summary(10, 1000), "b": summary(10, 1000, 100)}
    page = pooling_report(results, networks, [("loaded", "the same")], [("data", "three animals")]).html()
    numbers = pooling_numbers(results, networks)
    assert json.loads(json.dumps(numbers, allow_nan=False)) == numbers
    accuracy = numbers["ways"]["b"]["accuracy"]["test"]["value"]
    right = results.is_right("test")["b"]
    assert accuracy == pytest.approx(np.mean(list(right.values()))) and f"{accuracy:.1%}" in page
    assert numbers["winner"]["way"] == "b" and numbers["differences"][0]["beyond_chance"] is True
    assert "&lt;b&gt;hare&lt;/b&gt;" in page and "<b>hare</b>" not in page
    assert all(sentence.split(" (")[0] in page for sentence in results.verdict[:2])


@pytest.mark.slow
def test_one_seed_has_no_interval() -> None:
    results = compared({"a": 0.5, "b": 0.8}, {"a": 0.5, "b": 0.8}, seeds=1)
    assert not results.differences[0].is_beyond_chance
    numbers = pooling_numbers(results, {"a": summary(1, 1), "b": summary(1, 1)})
    assert numbers["ways"]["a"]["accuracy"]["test"]["low"] is None
    page = pooling_report(results, {"a": summary(1, 1), "b": summary(1, 1)}, [], []).html()
    assert "test accuracy, one seed" in page and "; 1 seed; " in page
    assert "nothing is called beyond chance" in page and "further seeds" not in page


def test_failed_runs_are_listed() -> None:
    results = compared({"a": 0.5, "b": 0.8}, {"a": 0.5, "b": 0.8})
    failed = PoolingResults(NAMES, LABELS, results.ways, {"a-9": "the loss is not finite"})
    assert "the loss is not finite" in pooling_report(failed, {"a": summary(1, 1), "b": summary(1, 1)}, [], []).html()


@pytest.mark.parametrize(
    ("begins", "words"), [([None, None], "not seen"), ([3, 5, 4], "4 (3 to 5)"), ([7, None], "7, 1 not seen")]
)
def test_the_begin_of_overfitting_is_a_median_and_a_range(begins: list[int | None], words: str) -> None:
    assert begins_in_words(begins) == words


def test_curves_show_the_medians_and_bands_of_the_median_run() -> None:
    fast, slow = epochs(3), epochs(2)
    other = [{**epoch, "train/loss_50": epoch["train/loss_50"] + 2} for epoch in epochs(3)]
    figure = live_curves({"a": [fast, other, slow], "b": []}, 3, "caption")
    left, right, empty, _ = figure.axes
    line = left.lines[0]
    np.testing.assert_allclose(np.asarray(line.get_xydata()), [(1, 0.5), (2, 1.5), (3, 3.5)])  # of 3, 3 and 2 runs
    band = np.asarray(left.collections[0].get_paths()[0].vertices)
    assert (band[:, 1].min(), band[:, 1].max()) == (0.25, 2.75)
    assert left.get_title(loc="left") == "a, 3 runs" and right.get_ylabel() == "accuracy"
    assert empty.get_title(loc="left") == "b" and not np.size(empty.lines[0].get_xdata())


def test_only_differences_beyond_chance_are_red() -> None:
    results = compared({"a": 0.5, "b": 0.8, "c": 0.8}, {"a": 0.5, "b": 0.8, "c": 0.8})
    axes = difference_figure(results.differences).axes[0]
    colours = {to_hex(line.get_color()) for line in axes.lines[1:3]}
    assert colours == {"#b3262e"} and to_hex(axes.lines[-1].get_color()) != "#b3262e"
    assert len(accuracies(results).axes[0].collections) == 3
    assert [text.get_text() for text in class_recalls(results).axes[0].texts[:3]] == ["100%"] * 3
