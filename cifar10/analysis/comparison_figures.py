"""Figures of a comparison: accuracies with intervals, learning curves over each other, recall of each class."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from cifar10.analysis.comparison import Comparison, Side
from cifar10.analysis.figures import fitting_name, name_rows

_COLOURS = ("#3a6ea5", "#d1603d", "#4f9d69", "#8f5ea8", "#c9a227", "#4aa3a2", "#b5446e", "#6b7280")
"""Of the sides in turn; further ones have the last."""
_MOST_CLASSES = 40  # in a figure: those that differ most
_MOST_SIDES = len(_COLOURS)
_STYLES: Mapping[str, Literal["--", "-"]] = {"train": "--", "val": "-"}
_LABELS = {"train": "training", "val": "validation"}
_MOST_MARKERS = 30  # epochs up to which each is marked on a curve


def colour_of(place: int) -> str:
    """Return the colour of the side at this place."""
    return _COLOURS[min(place, _MOST_SIDES - 1)]


def accuracy_figure(found: Comparison) -> Figure:
    """Return the accuracy of each network with its interval, those of a side in one colour."""
    entries = [(run, place) for place, side in enumerate(found.sides) for run in side.runs if run.answers is not None]
    figure = Figure(figsize=(8, 1.0 + 0.34 * len(entries)), layout="constrained")
    axes = figure.subplots()
    rows = list(range(len(entries)))[::-1]
    for row, (run, place) in zip(rows, entries, strict=True):
        accuracy = found.accuracy(run)
        errors = [[accuracy.value - accuracy.interval.low], [accuracy.interval.high - accuracy.value]]
        axes.errorbar([accuracy.value], [row], xerr=errors, fmt="o", color=colour_of(place), capsize=3)
        text = f"{accuracy.value:.2%}"
        axes.annotate(text, (accuracy.value, row), (0, 5), textcoords="offset points", ha="center", fontsize=9)
    name_rows(axes, rows, [run.name for run, _ in entries])
    axes.set_ylim(-0.6, len(entries) - 0.3)
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.set_xlabel("accuracy on the test images, with 95 % interval")
    _plain(axes)
    return figure


def curves_figure(sides: Sequence[Side]) -> Figure | None:
    """Return loss and accuracy by epoch of all runs over each other, training dashed, validation solid.

    Returns:
        None if no run has finished an epoch.
    """
    histories = [(place, run.history) for place, side in enumerate(sides) for run in side.runs if run.history]
    if not histories:
        return None
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    splits: set[str] = set()
    for place, history in histories:
        for axes, metric in ((left, "loss"), (right, "accuracy")):
            splits |= _draw(axes, history, metric, colour_of(place))
    longest = max(len(history) for _, history in histories)
    for axes, name in ((left, "cross-entropy"), (right, "accuracy")):
        axes.set_title(name, loc="left")
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.set_xlim(1 - 0.03 * longest, 1.03 * longest)
        _plain(axes)
    left.set_ylim(bottom=0)
    right.yaxis.set_major_formatter(PercentFormatter(1))
    lines = [
        Line2D([], [], color=colour_of(place), linewidth=2.5, label=fitting_name(side.title))
        for place, side in enumerate(sides[:_MOST_SIDES])
    ]
    lines += [Line2D([], [], color="#555555", linestyle=_STYLES[x], label=_LABELS[x]) for x in _LABELS if x in splits]
    legend = figure.legend(handles=lines, loc="outside upper left", ncols=4, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def _draw(axes: Axes, history: Sequence[Mapping[str, float]], metric: str, colour: str) -> set[str]:
    """Draw both splits of a run, and return those that it has."""
    epochs = [entry["epoch"] + 1 for entry in history]
    marker = "o" if len(epochs) <= _MOST_MARKERS else ""
    drawn = set()
    for split, style in _STYLES.items():
        values = np.array([entry.get(f"{split}/{metric}", np.nan) for entry in history], dtype=np.float64)
        values[~np.isfinite(values)] = np.nan
        if not np.isnan(values).all():
            axes.plot(epochs, values, style, color=colour, marker=marker, markersize=3, linewidth=1.4, alpha=0.85)
            drawn.add(split)
    return drawn


def recall_figure(recalls: Mapping[str, NDArray[np.float64]], class_names: Sequence[str]) -> Figure | None:
    """Return the recall of each class of every side, the classes with the largest differences first.

    Args:
        recalls: Title of a side -> recall of each class, (K,), NaN where there is no image. The first eight are drawn.
        class_names: K names.

    Returns:
        None if no class has an image.
    """
    drawn = dict(list(recalls.items())[:_MOST_SIDES])
    values = np.stack(list(drawn.values()))  # (sides, K)
    gaps = values.max(axis=0) - values.min(axis=0)
    ids = [class_id for class_id in np.argsort(-gaps, kind="stable").tolist() if not np.isnan(gaps[class_id])]
    shown = ids[:_MOST_CLASSES]
    if not shown:
        return None
    figure = Figure(figsize=(8, 1.6 + 0.3 * len(shown)), layout="constrained")
    axes = figure.subplots()
    rows = np.arange(len(shown))[::-1]
    axes.hlines(
        rows, values[:, shown].min(axis=0), values[:, shown].max(axis=0), color="#c5ccd3", linewidth=3, zorder=1
    )
    for place, (title, own) in enumerate(drawn.items()):
        axes.plot(own[shown], rows, "o", color=colour_of(place), markersize=7, label=fitting_name(title), alpha=0.9)
    name_rows(axes, rows.tolist(), class_names, shown)
    axes.set_ylim(-0.6, len(shown) - 0.4)
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.set_xlabel("recall: images of the class that are recognised")
    _plain(axes)
    legend = figure.legend(frameon=False, loc="outside upper left", ncols=4)
    for text in legend.get_texts():
        text.set_parse_math(False)
    if len(ids) > len(shown):
        axes.set_title(f"the {len(shown)} of {len(ids)} classes that differ most", fontsize=10)
    return figure


def _plain(axes: Axes) -> None:
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
