"""Figures of a comparison of ways to shrink feature maps.

Shapes: E epochs.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from cifar10.analysis.paired_differences import Difference
from cifar10.analysis.pooling_results import PoolingResults
from cifar10.types import QUARTILES, Metrics

_COLOURS = {"train": "#3a6ea5", "val": "#d1603d"}
_LABELS = {"train": "training", "val": "validation"}
_DOT, _MEAN = "#8a94a0", "#1c2733"

Histories = Mapping[str, Sequence[Sequence[Metrics]]]
"""Way -> the epochs of each of its runs so far."""


def live_curves(histories: Histories, num_epochs: int, caption: str) -> Figure:
    """Return the learning curves: a row for each way, cross-entropy on the left, accuracy on the right.

    A line is the median over the batches of an epoch, a band reaches from the lower to the upper quartile. Of several
    runs, it is the median run.

    Args:
        histories: What has been trained so far, with quartiles.
        num_epochs: The width of the pictures.
        caption: Below them.
    """
    figure = Figure(figsize=(9.5, 0.9 + 2.3 * len(histories)), layout="constrained")
    rows = figure.subplots(len(histories), 2, squeeze=False, sharex=True, sharey="col")
    for (left, right), (way, runs) in zip(rows, histories.items(), strict=True):
        for axes, metric in ((left, "loss"), (right, "accuracy")):
            for split in _COLOURS:
                _draw_band(axes, runs, split, metric)
            axes.grid(alpha=0.3)
            axes.spines[["top", "right"]].set_visible(False)
            axes.set_xlim(1, max(num_epochs, 2))
        count = f", {len(runs)} runs" if len(runs) > 1 else ""
        left.set_title(f"{way}{count}", loc="left", fontweight="bold")
        left.set_ylabel("cross-entropy")
        right.set_ylabel("accuracy")
        right.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    rows[0][0].set_ylim(bottom=0)
    for axes in rows[-1]:
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    handles = [rows[0][0].plot([], [], color=colour, label=_LABELS[split])[0] for split, colour in _COLOURS.items()]
    figure.legend(handles=handles, loc="outside upper right", ncols=2, frameon=False)
    figure.supxlabel(caption, fontsize=9, color="#555555")
    return figure


def _draw_band(axes: Axes, runs: Sequence[Sequence[Metrics]], split: str, metric: str) -> None:
    low, median, high = (_median_run(runs, f"{split}/{metric}_{part}") for part in QUARTILES)
    epochs = np.arange(1, len(median) + 1)
    axes.fill_between(epochs, low, high, color=_COLOURS[split], alpha=0.2, linewidth=0)
    axes.plot(epochs, median, color=_COLOURS[split], linewidth=1.4)


def _median_run(runs: Sequence[Sequence[Metrics]], name: str) -> NDArray[np.float64]:  # (E,)
    """Return the median over the runs that have got so far, epoch by epoch."""
    length = max(map(len, runs), default=0)
    values = np.full((len(runs), length), np.nan)
    for row, history in zip(values, runs, strict=True):
        row[: len(history)] = [epoch.get(name, np.nan) for epoch in history]
    values = np.where(np.isfinite(values), values, np.nan)
    is_known = ~np.isnan(values).all(axis=0) if length else np.zeros(0, bool)
    medians = np.full(length, np.nan)
    medians[is_known] = np.nanmedian(values[:, is_known], axis=0)
    return medians


def accuracies(results: PoolingResults) -> Figure:
    """Return the test accuracy of each run, and mean and interval over seeds of each way."""
    figure = Figure(figsize=(6.5, 1.2 + 0.6 * len(results.ways)), layout="constrained")
    axes = figure.subplots()
    for place, way in enumerate(results.ways):
        values = [float(right.mean()) for right in results.is_right("test")[way.name].values()]
        axes.scatter(values, [place + 0.18] * len(values), s=18, color=_DOT, label=None if place else "one run")
        interval = results.accuracy(way, "test")
        if np.isfinite(interval.low):
            axes.plot([interval.low, interval.high], [place - 0.1] * 2, color=_MEAN, linewidth=2)
        label = None if place else "mean, and its 95 % interval over seeds"
        axes.plot(interval.value, place - 0.1, "o", color=_MEAN, label=label)
    _name_rows(axes, [way.name for way in results.ways])
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlabel("accuracy on the test images")
    figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=9)
    return figure


def difference_figure(differences: Sequence[Difference]) -> Figure:
    """Return the differences of accuracy between ways, with intervals; those that reach zero may be chance."""
    figure = Figure(figsize=(6.5, 0.9 + 0.5 * len(differences)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color="#888888", linewidth=1)
    for place, each in enumerate(differences):
        value, low, high = (100 * number for number in (each.interval.value, each.interval.low, each.interval.high))
        colour = "#b3262e" if each.is_beyond_chance else _DOT
        axes.plot([low, high], [place] * 2, color=colour, linewidth=2)
        axes.plot(value, place, "o", color=colour)
    _name_rows(axes, [f"{each.first} less {each.second}" for each in differences])
    red = " (red: beyond chance)" if any(each.is_beyond_chance for each in differences) else ", none beyond chance"
    axes.set_xlabel(f"difference of test accuracy in percentage points{red}")
    return figure


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


def class_recalls(results: PoolingResults) -> Figure:
    """Return a table of colours: the recall of each class, of each way, on training and test images."""
    size = 4.2 + 0.75 * len(results.class_names), 1.6 + 0.9 * len(results.ways)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    rows = [(way, split) for split in ("train", "test") for way in results.ways]
    values = np.array([_recalls(results, way.name, split) for way, split in rows])
    image = axes.imshow(values, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    figure.colorbar(image, ax=axes).ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xticks(range(len(results.class_names)), results.class_names, rotation=30, ha="right", parse_math=False)
    axes.set_yticks(range(len(rows)), [f"{way.name}, {split}" for way, split in rows])
    axes.axhline(len(results.ways) - 0.5, color="white", linewidth=3)
    for row, column in np.ndindex(*values.shape):
        colour = "white" if values[row, column] > 0.6 else "black"
        axes.text(column, row, f"{values[row, column]:.0%}", ha="center", va="center", color=colour, fontsize=8)
    return figure


def _recalls(results: PoolingResults, name: str, split: str) -> NDArray[np.float64]:
    way = next(way for way in results.ways if way.name == name)
    confusion = results.score(way, split).confusion
    recalls: NDArray[np.float64] = confusion.diagonal() / np.maximum(confusion.sum(axis=1), 1)
    return recalls
