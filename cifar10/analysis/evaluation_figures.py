"""Figures of an evaluation: recall by class, reliability, confidence, robustness and honest accuracy."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from cifar10.analysis.calibration import Bin
from cifar10.analysis.classification_report import Score
from cifar10.analysis.figures import name_rows
from cifar10.analysis.honest import HonestScore, PeopleScore
from cifar10.analysis.intervals import wilson
from cifar10.config.corruption_kinds import GROUPS, STRENGTHS

_BLUE, _RED, _GREY = "#3a6ea5", "#d1603d", "#9aa5b1"
_MOST_CLASSES = 40  # in a figure: those with the lowest recall


def recall_by_class(own: Score, name: str, other: Score | None = None, other_name: str = "") -> Figure | None:
    """Return the recall of each class with its interval, lowest first, beside that of other images.

    Args:
        own: Of the images; classes without images are left out.
        name: Of the images.
        other: Of other images.
        other_name: Of the others.

    Returns:
        None if there is no image.
    """
    hits, support = own.confusion.diagonal(), own.confusion.sum(axis=1)
    recalls = hits / np.maximum(support, 1)
    ids = [label for label in np.argsort(recalls, kind="stable").tolist() if support[label]]
    lowest = ids[:_MOST_CLASSES]
    if not lowest:
        return None
    figure = Figure(figsize=(8, 1.5 + 0.28 * len(lowest)), layout="constrained")
    axes = figure.subplots()
    rows = np.arange(len(lowest))[::-1]
    bounds = np.array([wilson(int(hits[label]), int(support[label])) for label in lowest])
    errors = np.abs(bounds - recalls[lowest, None]).T
    axes.errorbar(recalls[lowest], rows, xerr=errors, fmt="o", color=_RED, capsize=2, label=f"{name}, 95 % interval")
    if other is not None:
        theirs = other.confusion.sum(axis=1)[lowest]
        seen = theirs > 0
        shares = other.confusion.diagonal()[lowest] / np.maximum(theirs, 1)
        axes.plot(shares[seen], rows[seen], "D", color=_BLUE, markersize=5, label=other_name)
    name_rows(axes, rows.tolist(), own.class_names, lowest)
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.set_xlabel("recall: images of the class that are recognised")
    axes.set_ylim(-0.7, len(lowest) - 0.3)
    _plain(axes)
    figure.legend(frameon=False, loc="outside upper left", ncols=2)
    if len(ids) > len(lowest):
        axes.set_title(f"the {len(lowest)} of {len(ids)} classes with the lowest recall", fontsize=10)
    return figure


def calibration_figure(bins: Sequence[Bin], scaled: Sequence[Bin] | None, temperature: float | None) -> Figure:
    """Return accuracy against confidence, before and after scaling, above the histogram of confidence."""
    shown = [("as it is", bins, _RED)] + ([(f"temperature {temperature:.2f}", scaled, _BLUE)] if scaled else [])
    figure = Figure(figsize=(4.4 * len(shown), 6.0), layout="constrained")
    panels = figure.subplots(2, len(shown), squeeze=False, sharex=True, sharey="row", height_ratios=(3, 1.2))
    for column, (title, each, colour) in enumerate(shown):
        upper, lower = panels[:, column]
        _reliability(upper, each, colour)
        upper.set_title(title, fontsize=11)
        total = sum(one.number for one in each)
        widths = [one.high - one.low for one in each]
        lower.bar([one.low for one in each], [one.number / total for one in each], widths, align="edge", color=colour)
        lower.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        lower.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        lower.set_xlabel("confidence")
        _plain(lower)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=2, frameon=False)
    panels[0, 0].set_ylabel("accuracy")
    panels[1, 0].set_ylabel("share of images")
    return figure


def _reliability(axes: Axes, bins: Sequence[Bin], colour: str) -> None:
    filled = [each for each in bins if each.accuracy is not None and each.confidence is not None]
    axes.plot([0, 1], [0, 1], "--", color=_GREY, label="calibrated")
    confidences = np.array([each.confidence for each in filled], dtype=np.float64)
    accuracies = np.array([each.accuracy for each in filled], dtype=np.float64)
    bounds = np.array(
        [wilson(round(acc * each.number), each.number) for acc, each in zip(accuracies, filled, strict=True)]
    )
    axes.vlines(confidences, confidences, accuracies, color=colour, alpha=0.35, linewidth=5)
    axes.errorbar(
        confidences,
        accuracies,
        yerr=np.abs(bounds - accuracies[:, None]).T,
        fmt="o-",
        markersize=4,
        linewidth=1,
        capsize=2,
        color=colour,
        label="measured, 95 % interval",
    )
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.text(0.97, 0.06, "too confident", ha="right", color=_GREY)
    axes.text(0.03, 0.92, "too cautious", color=_GREY)
    _plain(axes)


def corruption_map(accuracies: Mapping[str, Sequence[float]], clean: float) -> Figure:
    """Return the accuracy by kind and strength as a heat map; strength 0 are the images as they are.

    Args:
        accuracies: Kind -> accuracy at each of `STRENGTHS`.
        clean: Accuracy on the images as they are.
    """
    kinds = list(accuracies)
    values = np.array([[clean, *accuracies[kind], float(np.mean(accuracies[kind]))] for kind in kinds])
    figure = Figure(figsize=(7.6, 1.6 + 0.36 * len(kinds)), layout="constrained")
    axes = figure.subplots()
    columns = np.array([0, *(1.15 + np.arange(len(STRENGTHS))), 1.3 + len(STRENGTHS)])
    for column, place in enumerate(columns):
        image = axes.imshow(
            values[:, [column]],
            cmap="viridis",
            vmin=0,
            vmax=1,
            extent=(place - 0.5, place + 0.5, len(kinds) - 0.5, -0.5),
            aspect="auto",
        )
        for row, value in enumerate(values[:, column].tolist()):
            axes.text(place, row, f"{value:.0%}", ha="center", va="center", color="white" if value < 0.6 else "black")
    axes.set_xlim(-0.5, columns[-1] + 0.5)
    axes.set_ylim(len(kinds) - 0.5, -0.5)
    axes.set_xticks(columns, ["none", *map(str, STRENGTHS), "mean"])
    axes.set_yticks(range(len(kinds)), [kind.replace("_", " ") for kind in kinds])
    starts = np.cumsum([sum(kind in group for kind in kinds) for group in GROUPS.values()])[:-1]
    for start in sorted(set(starts.tolist()) - {0, len(kinds)}):
        axes.axhline(start - 0.5, color="white", linewidth=3)
    axes.set_xlabel("strength of the corruption")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, shrink=0.7)
    bar.set_label("accuracy")
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return figure


def honest_figure(scores: Sequence[HonestScore], people: PeopleScore | None) -> Figure:
    """Return accuracies with their intervals, one below the other; those of the images left out are not shown."""
    whole = [score for score in scores if not score.is_remainder]
    lines = [(f"{score.name} ({score.num_images:,})", score.accuracy, score.interval) for score in whole]
    if people is not None:
        lines.append(("agreement with a person's own label", people.accuracy, people.interval))
    figure = Figure(figsize=(8.6, 1 + 0.38 * len(lines)), layout="constrained")
    axes = figure.subplots()
    rows = np.arange(len(lines))[::-1]
    for row, (_, value, interval) in zip(rows, lines, strict=True):
        errors = [[value - interval.low], [interval.high - value]]
        axes.errorbar([value], [row], xerr=errors, fmt="o", color=_BLUE, capsize=3)
        axes.annotate(f"{value:.2%}", (value, row), (0, 5), textcoords="offset points", ha="center", fontsize=9)
    axes.axvline(lines[0][1], color=_GREY, linestyle=":", zorder=0)
    axes.set_yticks(rows, [name for name, _, _ in lines])
    axes.set_ylim(-0.6, len(lines) - 0.3)
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.set_xlabel("accuracy, with 95 % interval")
    _plain(axes)
    return figure


def _plain(axes: Axes) -> None:
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
