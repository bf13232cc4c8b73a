"""Figures of a data set: class balance, samples, distributions of brightness and sharpness.

Shapes: N images of S x S pixels, K classes.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from cifar10.analysis.appearance import Appearance
from cifar10.analysis.figures import name_rows

COLOURS = ("#3a6ea5", "#d1603d", "#5b9a68", "#8d6cab")
_CHANNELS = {"red": "#c8453b", "green": "#3f8f4f", "blue": "#3a6ea5"}
_NAMED = 30  # classes up to which bars are horizontal, with names
_MOST_BINS = 60


def class_balance(counts: Mapping[str, NDArray[np.int64]], class_names: Sequence[str]) -> Figure:
    """Return the number of images of each class, one panel for each split.

    Args:
        counts: Split -> (K,).
        class_names: K names.
    """
    num_classes, few = len(class_names), len(class_names) <= _NAMED
    height = 1.0 + 0.26 * num_classes if few else 3.2
    figure = Figure(figsize=(9, height) if few else (9, height * len(counts)), layout="constrained")
    panels = figure.subplots(1, len(counts), sharey=True) if few else figure.subplots(len(counts), 1)
    for axes, (split, values), colour in zip(np.atleast_1d(panels), counts.items(), COLOURS, strict=False):
        mark = axes.axvline if few else axes.axhline
        mark(values.mean(), color="#888", lw=0.8, ls="--")
        places = np.arange(num_classes)
        if few:
            axes.barh(places, values, color=colour)
            name_rows(axes, places.tolist(), class_names)
            axes.set_ylim(num_classes - 0.4, -0.6)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=4))
        else:
            axes.bar(places, values, color=colour, width=0.9 if num_classes <= 250 else 1.0)
            axes.set_xlabel("class, by number")
            axes.set_ylabel("images")
            axes.set_xlim(-0.5, num_classes - 0.5)
            axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
        axes.set_title(f"{split}: {int(values.sum()):,} images", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def sample_grid(rows: Sequence[Sequence[NDArray[np.uint8]]], names: Sequence[str]) -> Figure:
    """Return a grid of images, one row for each name.

    Args:
        rows: For each name, images of the same size, (S, S, 3); rows may be shorter than others.
        names: Of the rows; may be empty strings.
    """
    columns = max(map(len, rows))
    side = rows[0][0].shape[0]
    gap = max(1, side // 16)
    canvas = np.full((len(rows) * (side + gap), columns * (side + gap), 3), 255, np.uint8)
    for row, images in enumerate(rows):
        for column, pixels in enumerate(images):
            top, left = row * (side + gap), column * (side + gap)
            canvas[top : top + side, left : left + side] = pixels
    cell = 0.62 if len(rows) <= _NAMED else 0.36
    figure = Figure(figsize=(1.4 + cell * columns, cell * len(rows)), layout="constrained")
    axes = figure.subplots()
    axes.imshow(canvas, interpolation="nearest")
    name_rows(axes, [row * (side + gap) + side / 2 for row in range(len(rows))], names)
    axes.tick_params(length=0)
    axes.set_xticks([])
    axes.spines[:].set_visible(False)
    return figure


def channel_histograms(histograms: Mapping[str, NDArray[np.int64]]) -> Figure:
    """Return how often each level occurs in red, green and blue.

    Args:
        histograms: Split -> (3, 256) counts.
    """
    figure = Figure(figsize=(9, 2.6), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(histograms), sharey=True))
    for axes, (split, counts) in zip(panels, histograms.items(), strict=True):
        shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        for (name, colour), share in zip(_CHANNELS.items(), shares, strict=True):
            axes.plot(np.arange(256) / 255, share, color=colour, lw=1.1, label=name)
        usual = shares[:, 1:-1].max() if shares[:, 1:-1].size else 1
        axes.set_ylim(0, max(1.25 * usual, 0.1))
        axes.set_title(split, fontsize=10)
        axes.set_xlabel("level, 0 is black and 1 white")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("share of pixels, %")
    panels[-1].legend(frameon=False, fontsize=9)
    return figure


def appearance_distributions(appearance: Appearance, split_ids: NDArray[np.int64], splits: Sequence[str]) -> Figure:
    """Return histograms of brightness, contrast, colourfulness and sharpness, by split."""
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    measures = {
        "brightness (mean level, 0 to 255)": appearance.brightness,
        "contrast (standard deviation of levels)": appearance.contrast,
        "colourfulness (levels between channels)": appearance.colourfulness,
        "sharpness (log share of fine detail)": appearance.sharpness,
    }
    hue = np.array(splits)[split_ids]
    for axes, (title, values) in zip(figure.subplots(2, 2).flat, measures.items(), strict=True):
        bins = min(_MOST_BINS, max(5, int(np.sqrt(len(values)))))
        sns.histplot(
            x=values, hue=hue, hue_order=list(splits), bins=bins, stat="percent", common_norm=False, element="step",
            fill=False, palette=list(COLOURS[: len(splits)]), ax=axes, legend=axes.get_subplotspec().is_first_col()
            and axes.get_subplotspec().is_first_row(),
        )  # fmt: skip
        axes.set_xlabel(title)
        axes.set_ylabel("share of images, %" if axes.get_subplotspec().is_first_col() else "")
        axes.spines[["top", "right"]].set_visible(False)
    return figure
