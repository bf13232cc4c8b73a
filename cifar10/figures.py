"""Numbers -> matplotlib Figures. Nothing here saves or shows."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

_TRAINING, _VALIDATION = "#3a6ea5", "#d1603d"
_MOST_NUMBERS = 20  # classes up to which each cell of a confusion matrix is labelled


def learning_curves(history: Sequence[dict[str, float]]) -> Figure:
    """Return loss and accuracy by epoch, training beside validation.

    Args:
        history: One entry per epoch: `epoch` from 0, `train/loss`, `train/accuracy`, and perhaps `val/...`.
    """
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_curve(left, history, "loss")
    _draw_curve(right, history, "accuracy")
    right.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    return figure


def _draw_curve(axes: Axes, history: Sequence[dict[str, float]], name: str) -> None:
    epochs = [entry["epoch"] + 1 for entry in history]
    for split, label, colour in (("train", "training", _TRAINING), ("val", "validation", _VALIDATION)):
        values = [entry.get(f"{split}/{name}", np.nan) for entry in history]
        if not np.isnan(values).all():
            axes.plot(epochs, values, marker="o", markersize=3, color=colour, label=label)
    axes.set_xlabel("epoch")
    axes.set_title(name)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)


def confusion_matrix(counts: NDArray[np.int64], class_names: Sequence[str]) -> Figure:
    """Return a picture of which class was taken for which, as a part of each true class.

    Args:
        counts: (K, K); row: true class, column: predicted class.
        class_names: K names.
    """
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    num_classes = len(class_names)
    side = min(3 + 0.5 * num_classes, 16)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    colours = figure.colorbar(image, ax=axes, shrink=0.8)
    colours.ax.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    size = 9 if num_classes <= _MOST_NUMBERS else 5
    axes.set_xticks(range(num_classes), class_names, rotation=90 if num_classes > 10 else 45, ha="right", fontsize=size)
    axes.set_yticks(range(num_classes), class_names, fontsize=size)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if num_classes <= _MOST_NUMBERS:
        _label_cells(axes, counts, share)
    return figure


def _label_cells(axes: Axes, counts: NDArray[np.int64], share: NDArray[np.float64]) -> None:
    for (row, column), count in np.ndenumerate(counts):
        if count:
            colour = "white" if share[row, column] > 0.5 else "black"
            axes.text(column, row, f"{count:,}", ha="center", va="center", fontsize=8, color=colour)
