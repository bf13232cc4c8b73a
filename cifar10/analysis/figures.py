"""Learning curves and confusion matrices as matplotlib Figures, and as PNG files."""

import itertools
import sys
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import matplotlib.style
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontEntry, FontProperties
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from cifar10.files import atomic_write
from cifar10.types import is_quartile

_TRAINING, _VALIDATION = "#3a6ea5", "#d1603d"
_MOST_NUMBERS = 20  # classes up to which each cell of a confusion matrix is labelled
_MOST_NAMES = 160  # class names that fit side by side along an axis
_MOST_MARKERS = 60  # epochs up to which each is marked on a curve
_NAME_SIZE = 9  # points
_LONGEST_NAME = 24  # columns of a class name; a wide character, as in Chinese, takes two


def learning_curves(history: Sequence[dict[str, float]]) -> Figure:
    """Return loss, accuracy and the other metrics by epoch, training beside validation.

    A band shows the quartiles over the batches of each epoch, if they were recorded.

    Args:
        history: One entry per epoch: `epoch` from 0, `train/loss`, `train/accuracy`, and perhaps `val/...`. A value
            that is not finite leaves a gap.
    """
    validation = (name.removeprefix("val/") for name in history[0] if name.startswith("val/") and not is_quartile(name))
    names = list(dict.fromkeys(["loss", "accuracy", *validation]))
    figure = Figure(figsize=(4.5 * len(names), 3.6), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names)), names, strict=True):
        _draw_curve(axes, history, name)
    left, right, *_ = figure.axes
    right.yaxis.set_major_formatter(_percent)
    if len(history) == 1:  # a single point has no range of its own
        left.set_ylim(0, (1.2 * left.dataLim.y1 if left.lines else 0) or 1)
        right.set_ylim(0, 1.02)
    return figure


def _percent(share: float, _position: float) -> str:
    return f"{100 * share:.6g}%"  # enough digits for neighbouring ticks to differ


def _draw_curve(axes: Axes, history: Sequence[dict[str, float]], name: str) -> None:
    epochs = [entry["epoch"] + 1 for entry in history]
    for split, label, colour in (("train", "training", _TRAINING), ("val", "validation", _VALIDATION)):
        values, low, high = (_series(history, f"{split}/{name}{suffix}") for suffix in ("", "_25", "_75"))
        if not np.isnan(low).all():
            axes.fill_between(epochs, low, high, color=colour, alpha=0.2, linewidth=0)
        if not np.isnan(values).all():
            marker = "o" if len(epochs) <= _MOST_MARKERS else ""
            axes.plot(epochs, values, marker=marker, markersize=3, color=colour, label=label)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if len(epochs) == 1:
        axes.set_xlim(epochs[0] - 0.5, epochs[0] + 0.5)
    axes.set_title(name)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.lines:
        axes.legend(frameon=False)


def _series(history: Sequence[dict[str, float]], name: str) -> NDArray[np.float64]:
    """Return the values of a metric by epoch, NaN where there is none."""
    values = np.array([entry.get(name, np.nan) for entry in history], dtype=np.float64)
    values[~np.isfinite(values)] = np.nan
    return values


def confusion_matrix(counts: NDArray[np.int64], class_names: Sequence[str]) -> Figure:
    """Return the confusion matrix as a figure, each row normalised by the number of images of its class.

    A name that no installed font can draw is replaced by the number of its class, with a note on stderr.

    Args:
        counts: (K, K); row: true class, column: predicted class.
        class_names: K names.
    """
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(3 + 0.5 * len(class_names), 16)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    bar = figure.colorbar(image, ax=axes, shrink=0.8, label="of the images of the true class")
    bar.ax.yaxis.set_major_formatter(_percent)
    _name_classes(axes, class_names)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if len(class_names) <= _MOST_NUMBERS:
        for row, column in np.argwhere(counts).tolist():
            count, colour = f"{counts[row, column]:,}", "white" if share[row, column] > 0.5 else "black"
            axes.text(column, row, count, ha="center", va="center", fontsize=8, color=colour)
    return figure


def _name_classes(axes: Axes, class_names: Sequence[str]) -> None:
    """Write the names along both axes; if there are very many, every second or third, and so on."""
    num_classes = len(class_names)
    shown = range(0, num_classes, -(-num_classes // _MOST_NAMES))
    names = [_on_one_line(class_names[label]) for label in shown]
    fonts = _fonts(set(names))
    if replaced := sum(name not in fonts for name in names):
        print(
            f"note: no installed font can draw {replaced} of the class names; the confusion matrix shows the numbers "
            "of these classes. With a font for them, such as Noto Sans CJK, it shows their names",
            file=sys.stderr,
        )
    texts = [name if name in fonts else str(label) for label, name in zip(shown, names, strict=True)]
    size = 9 if num_classes <= _MOST_NUMBERS else 7 if num_classes <= 100 else 5
    axes.set_xticks(shown, texts, rotation=90 if num_classes > 10 else 45, ha="right", fontsize=size, parse_math=False)
    axes.set_yticks(shown, texts, fontsize=size, parse_math=False)
    for tick_label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        if path := fonts.get(tick_label.get_text()):
            tick_label.set_fontproperties(FontProperties(fname=path, size=size))


def name_rows(
    axes: Axes, heights: Sequence[float], class_names: Sequence[str], ids: Sequence[int] | None = None
) -> None:
    """Write names of classes along the y-axis; in place of one that no installed font can draw, its number.

    Args:
        axes: Changed.
        heights: Where the names stand.
        class_names: Of all classes.
        ids: Of the classes to name, in the order of `heights`; None: of all.
    """
    drawn = drawable_names(class_names)
    names = drawn if ids is None else [drawn[class_id] for class_id in ids]
    axes.set_yticks(heights, [text for text, _ in names], parse_math=False)
    for label, (_, font) in zip(axes.get_yticklabels(), names, strict=False):  # panels that share an axis have none
        label.set_fontproperties(font)


def fitting_name(name: str) -> str:
    """Return a name for a legend: on one line, not too long, and without characters that the default font lacks."""
    shown, default = _on_one_line(name), str(font_manager.findfont(FontProperties()))
    return "".join(character if _has_all(default, character) else "\ufffd" for character in shown)


def drawable_names(class_names: Sequence[str]) -> list[tuple[str, FontProperties]]:
    """Return each name on one line, with a font for it; of one that no installed font can draw, its number."""
    names = [_on_one_line(name) for name in class_names]
    fonts = _fonts(set(names))
    return [
        (name, FontProperties(fname=fonts[name], size=_NAME_SIZE))
        if name in fonts
        else (str(class_id), FontProperties(size=_NAME_SIZE))
        for class_id, name in enumerate(names)
    ]


def _on_one_line(name: str) -> str:
    """Return a name without line breaks and control characters, and without its middle if it is long."""
    printable = "".join(c if c.isprintable() else "\ufffd" for c in " ".join(name.split()))
    columns = [2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in printable]
    if sum(columns) <= _LONGEST_NAME:
        return printable
    half = (_LONGEST_NAME - 1) // 2
    head = sum(width <= half for width in itertools.accumulate(columns))
    tail = sum(width <= half for width in itertools.accumulate(reversed(columns)))
    return f"{printable[:head]}…{printable[-tail:]}"


def _fonts(names: set[str]) -> dict[str, str]:
    """Return name -> the file of an installed font that has all its characters, for each name that has one.

    The default font is tried first. The others are opened only until every name has a font.
    """
    listed = sorted(font_manager.fontManager.ttflist, key=_plainness)
    others = [font.fname for font in listed if not font.name.startswith("Last Resort")]  # a box for every character
    fonts: dict[str, str] = {}
    for path in (str(font_manager.findfont(FontProperties())), *others):
        fonts |= {name: path for name in names - fonts.keys() if _has_all(path, name)}
        if len(fonts) == len(names):
            break
    return fonts


def _plainness(font: FontEntry) -> tuple[bool, bool, bool, str]:
    return "Sans" not in font.name, font.style != "normal", font.weight not in (400, "normal", "regular"), font.name


def _has_all(path: str, characters: str) -> bool:
    try:
        font = font_manager.get_font(path)
    except (OSError, RuntimeError):  # it was removed after matplotlib listed it
        return False
    return all(font.get_char_index(ord(character)) for character in characters)


def save_figures(
    history: Sequence[dict[str, float]], confusion: NDArray[np.int64] | None, class_names: Sequence[str], folder: Path
) -> None:
    """Save `confusion.png` and `curves.png`, each if there is something to draw.

    A `matplotlibrc` of the user has no effect.
    """
    with matplotlib.style.context("default"):  # text.usetex=True would need LaTeX, at the end of a run of hours
        figures = {} if confusion is None else {"confusion.png": confusion_matrix(confusion, class_names)}
        if history:
            figures["curves.png"] = learning_curves(history)
        for name, figure in figures.items():
            with atomic_write(folder / name) as file:
                figure.savefig(file, dpi=120, format="png")
