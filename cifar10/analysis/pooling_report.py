"""The report of a comparison of ways to shrink feature maps, as a page, and its numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cifar10.analysis.classification_report import Score
from cifar10.analysis.network_summary import Layer, NetworkSummary
from cifar10.analysis.paired_differences import Interval, seed_interval
from cifar10.analysis.pooling_figures import accuracies, class_recalls, difference_figure, live_curves
from cifar10.analysis.pooling_results import SPLITS, PoolingResults, SeedResult, WayResult, percent, points
from cifar10.analysis.report import Number, Numbers, Part, Picture, Report, Section, Table, Text
from cifar10.wording import counted

_SPLIT_NAMES = {"train": "training", "validation": "validation", "test": "test"}
_NOT_SEEN = "not seen"
_INTERVALS = (
    "An interval of an accuracy is Student's, over seeds. The intervals of differences cover further seeds and further "
    "test images of the same kind, and hold for all pairs together with a probability of 95 %."
)
_ONE_SEED = (
    "With one seed, an interval covers further test images only. How much another seed would change is unknown, so "
    "nothing is called beyond chance."
)


def pooling_report(
    results: PoolingResults,
    networks: Mapping[str, NetworkSummary],
    checks: Sequence[tuple[str, str]],
    origin: Sequence[tuple[str, str]],
) -> Report:
    """Return the page.

    Args:
        results: At least one run of at least one way.
        networks: Way -> its network.
        checks: What was checked of the winner, and the result.
        origin: For the end of the page.
    """
    seeds = sorted({seed for way in results.ways for seed in way.runs})
    intervals = _INTERVALS if len(seeds) > 1 else _ONE_SEED
    sections = [
        Section("Verdict", _verdict(results)),
        Section("Learning curves", [_curves(results)]),
        Section("Quality and time", [_quality(results), Text(intervals), *_differences(results)]),
        Section("Overfitting", _overfitting(results)),
        Section("Classes", _classes(results)),
        Section("Networks", _networks(networks)),
        Section("The winner, checked", [Table(("check", "result"), list(checks))]),
    ]
    if results.failures:
        sections.append(Section("Runs without a result", [Table(("run", "reason"), list(results.failures.items()))]))
    names = ", ".join(way.name for way in results.ways)
    sizes = ", ".join(f"{len(results.labels[split]):,} {_SPLIT_NAMES[split]}" for split in SPLITS)
    subtitle = f"{names}; {counted(len(seeds), 'seed')}; {', '.join(results.class_names)}; {sizes} images"
    return Report("Ways to shrink feature maps", subtitle, sections, origin)


def _verdict(results: PoolingResults) -> list[Part]:
    numbers = [
        Number(way.name, f"{results.accuracy(way, 'test').value:.1%}", _half(results.accuracy(way, "test")))
        for way in results.ways
    ]
    return [Numbers(numbers), *map(Text, results.verdict), Text(overfitting_in_words(results))]


def _half(interval: Interval) -> str:
    if not np.isfinite(interval.high):
        return "test accuracy, one seed"
    return f"{interval.low:.1%} to {interval.high:.1%}, over seeds"


def _curves(results: PoolingResults) -> Picture:
    histories = {way.name: [run.history for run in way.runs.values()] for way in results.ways}
    longest = max(len(history) for runs in histories.values() for history in runs)
    caption = "Line: median over the batches of an epoch. Band: 25 % to 75 %. Of several runs, the median run."
    figure = live_curves(histories, longest, caption)
    return Picture(figure, "Cross-entropy and accuracy by epoch, of training and validation, a row for each way")


def _quality(results: PoolingResults) -> Table:
    head = ("way", "seeds", "test", "validation", "training", "best epoch", "epochs", "s per epoch", "s in all")
    return Table(head, [_quality_row(results, way) for way in results.ways], "Accuracy of the best epoch, and time")


def _quality_row(results: PoolingResults, way: WayResult) -> list[str | int | float]:
    runs = list(way.runs.values())
    return [
        way.name,
        len(runs),
        *(percent(results.accuracy(way, split)) for split in reversed(SPLITS)),
        _range([run.best_epoch for run in runs]),
        _range([len(run.history) for run in runs]),
        float(np.median([run.epoch_seconds for run in runs])),
        float(np.median([run.train_seconds for run in runs])),
    ]


def _range(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return f"{low}" if low == high else f"{int(np.median(values))} ({low} to {high})"


def _differences(results: PoolingResults) -> list[Part]:
    if not results.differences:
        return [Picture(accuracies(results), "Test accuracy of each run, and the mean of each way")]
    rows = [
        [f"{each.first} less {each.second}", points(each.interval), "yes" if each.is_beyond_chance else "no"]
        for each in results.differences
    ]
    return [
        Picture(accuracies(results), "Test accuracy of each run, and the mean of each way"),
        Table(("difference of test accuracy", "points", "beyond chance"), rows),
        Picture(difference_figure(results.differences), "Differences of test accuracy between ways, with intervals"),
    ]


def _overfitting(results: PoolingResults) -> list[Part]:
    rows: list[list[str | float]] = []
    for way in results.ways:
        each = [run.overfitting for run in way.runs.values()]
        rows.append(
            [
                way.name,
                begins_in_words([run.overfitting.begins for run in way.runs.values()]),
                _in_points([one.gap_there for one in each]),
                _in_points([one.gap_at_end for one in each]),
                float(np.mean([one.loss_gap_at_end for one in each])),
            ]
        )
    head = ("way", "begins at epoch", "gap there, points", "gap at the end, points", "gap of loss at the end")
    return [
        Text(
            "A network overfits from the epoch on after which its loss on the validation images rises while that on "
            "the training images falls. The gap is training accuracy less validation accuracy, and negative if the "
            "validation images are easier. All are means over up to five epochs. Where no beginning was seen, the "
            "first gap is at the lowest loss so far."
        ),
        Table(head, rows),
    ]


def begins_in_words(epochs: Sequence[int | None]) -> str:
    """Return the epochs at which runs begin to overfit as a median and a range."""
    known = [epoch for epoch in epochs if epoch is not None]
    if not known:
        return _NOT_SEEN
    missing = f", {len(epochs) - len(known)} {_NOT_SEEN}" if len(known) < len(epochs) else ""
    return _range(known) + missing


def _in_points(values: Sequence[float]) -> str:
    interval = seed_interval(100 * np.array(values))
    half = interval.high - interval.value
    return f"{interval.value:.1f}" + (f" ± {half:.1f}" if np.isfinite(half) else "")


def overfitting_in_words(results: PoolingResults) -> str:
    """Return a sentence on how far each way overfits, and from when on."""
    parts = []
    for way in results.ways:
        runs = [run.overfitting for run in way.runs.values()]
        gap = 100 * float(np.mean([run.gap_at_end for run in runs]))
        begins = begins_in_words([run.begins for run in runs])
        since = "no beginning seen" if begins == _NOT_SEEN else f"from epoch {begins}"
        parts.append(f"{way.name} {since}, at the end {gap:.1f} points")
    return f"Overfitting (training less validation accuracy): {'; '.join(parts)}."


def _classes(results: PoolingResults) -> list[Part]:
    parts: list[Part] = [Picture(class_recalls(results), "Recall of each class, on training and test images")]
    head = ("class", *(f"{split} {score}" for split in ("training", "test") for score in ("precision", "recall", "F1")))
    for way in results.ways:
        scores = [results.score(way, split) for split in ("train", "test")]
        mistakes = ", ".join(f"{true} taken for {other} {count}x" for true, other, count in scores[1].confusions(3))
        rows = [
            [name, *(number for score in scores for number in _numbers_of(score, name))] for name in results.class_names
        ]
        caption = f"{way.name}, all seeds together. Most frequent mistakes on test images: {mistakes or 'none'}"
        parts.append(Table(head, rows, caption))
    return parts


def _numbers_of(score: Score, name: str) -> list[float | None]:
    """Return precision, recall and F1 of a class."""
    found = next((each for each in score.classes if each.name == name), None)
    return [None] * 3 if found is None else [found.precision, found.recall, found.f1]


def _networks(networks: Mapping[str, NetworkSummary]) -> list[Part]:
    head = ("way", "parameters", "multiplications and additions", "FLOPs", "comparisons or additions of pooling")
    rows: list[list[str | int]] = [
        [name, each.num_parameters, each.multiplications, 2 * each.multiplications, each.pooled_inputs]
        for name, each in networks.items()
    ]
    layers = [
        Table(
            ("layer", "kind", "output of an image", "parameters", "multiplications and additions"),
            [
                [layer.name, layer.kind, _shape(layer), layer.num_parameters, layer.multiplications]
                for layer in network.layers
            ],
            f"{name}, layer by layer",
        )
        for name, network in networks.items()
    ]
    return [Text(size_in_words(networks)), Table(head, rows, "For one image"), *layers]


def _shape(layer: Layer) -> str:
    return " x ".join(map(str, layer.output_shape))


def size_in_words(networks: Mapping[str, NetworkSummary]) -> str:
    """Return a sentence that states whether the networks are of equal size, and the differences if not."""
    parameters = {each.num_parameters for each in networks.values()}
    multiplications = {each.multiplications for each in networks.values()}
    if len(parameters) == len(multiplications) == 1:
        most = max(each.pooled_inputs for each in networks.values())
        share = most / (2 * multiplications.pop())
        return (
            f"All networks have the same number of parameters and of multiplications. Pooling adds up to {most:,} "
            f"comparisons or additions of an image, {share:.1%} of its FLOPs."
        )
    least = min(networks.values(), key=lambda each: (each.multiplications, each.num_parameters))
    differing = ", ".join(
        f"{name} {each.num_parameters / max(least.num_parameters, 1):.2f} and "
        f"{each.multiplications / max(least.multiplications, 1):.2f}"
        for name, each in networks.items()
    )
    return (
        f"The networks are not of equal size. Parameters and multiplications, as multiples of the least: {differing}."
    )


def pooling_numbers(results: PoolingResults, networks: Mapping[str, NetworkSummary]) -> dict[str, Any]:
    """Return the numbers of the report as plain values, for JSON."""
    way, seed = results.winner
    return {
        "classes": list(results.class_names),
        "images": {split: len(labels) for split, labels in results.labels.items()},
        "verdict": results.verdict,
        "failures": dict(results.failures),
        "winner": {"way": way.name, "seed": seed, "run": way.runs[seed].name},
        "differences": [
            {
                "first": each.first,
                "second": each.second,
                "test_accuracy": _ends(each.interval),
                "seeds": each.num_seeds,
                "beyond_chance": each.is_beyond_chance,
            }
            for each in results.differences
        ],
        "ways": {each.name: _way_numbers(results, each, networks[each.name]) for each in results.ways},
    }


def _ends(interval: Interval) -> dict[str, float | None]:
    ends = {"value": interval.value, "low": interval.low, "high": interval.high}
    return {name: number if np.isfinite(number) else None for name, number in ends.items()}


def _way_numbers(results: PoolingResults, way: WayResult, network: NetworkSummary) -> dict[str, Any]:
    return {
        "parameters": network.num_parameters,
        "multiplications": network.multiplications,
        "pooling_operations": network.pooled_inputs,
        "accuracy": {split: _ends(results.accuracy(way, split)) for split in SPLITS},
        "runs": {str(seed): _run_numbers(results, run) for seed, run in way.runs.items()},
        "classes": {
            split: {
                score.name: {"precision": score.precision, "recall": score.recall, "f1": score.f1}
                for score in results.score(way, split).classes
            }
            for split in ("train", "test")
        },
    }


def _run_numbers(results: PoolingResults, run: SeedResult) -> dict[str, Any]:
    return {
        "accuracy": {split: float((run.predictions[split] == results.labels[split]).mean()) for split in SPLITS},
        "best_epoch": run.best_epoch,
        "epochs": len(run.history),
        "train_seconds": run.train_seconds,
        "epoch_seconds": run.epoch_seconds,
        "overfitting_begins": run.overfitting.begins,
        "gap_at_lowest_loss": run.overfitting.gap_there,
        "gap_at_end": run.overfitting.gap_at_end,
        "loss_gap_at_end": run.overfitting.loss_gap_at_end,
    }
