"""Figures of a sweep: its course, what matters, each setting by itself, and all settings of each trial.

A trial is a dot or a line. Its colour is its score, from blue, the worst, to yellow, the best; the best one is ringed.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from cifar10.analysis.sweep_results import SweepResults, TrialResult, shown_value

_COLOURS = colormaps["viridis"]
_BEST, _LINE, _QUIET = "#d1603d", "#3a6ea5", "#9a9a9a"
_COLUMNS = 3  # of the figure of single settings
_MOST_LABELS = 12  # choices that are named along an axis
_LONGEST_LABEL = 18  # characters


def history(results: SweepResults) -> Figure:
    """Return the score of each trial, and the best one so far."""
    figure = Figure(figsize=(8.6, 3.6), layout="constrained")
    axes = figure.subplots()
    complete = [trial for trial in results.of_state("complete") if trial.score is not None]
    pruned = [trial for trial in results.of_state("pruned") if trial.score is not None]
    failed = results.of_state("failed", "killed")
    scores = [results.sign * (trial.score or 0.0) for trial in complete]
    best = results.sign * np.maximum.accumulate(np.array(scores))
    if complete:
        numbers = [*(trial.number for trial in complete), results.trials[-1].number]
        axes.step(numbers, [*best, best[-1]], where="post", color=_BEST, label="best so far")
    if pruned:
        axes.scatter(*_points(pruned), marker="x", color=_QUIET, label="stopped early, at its last epoch")
    axes.scatter(*_points(complete), color=_LINE, zorder=3, label="trained to the end")
    for trial in failed:
        axes.axvline(trial.number, color=_QUIET, linewidth=0.8, linestyle=":")
    if failed:
        axes.plot([], [], color=_QUIET, linewidth=0.8, linestyle=":", label="failed")
    _ring(axes, results, lambda trial: float(trial.number))
    axes.set_xlabel("trial")
    _finish(axes, results)
    return figure


def learning_curves(results: SweepResults) -> Figure:
    """Return the score of each trial by epoch; those that were stopped early end early."""
    figure = Figure(figsize=(8.6, 3.6), layout="constrained")
    axes = figure.subplots()
    colour_of = _colours(results)
    for trial in results.of_state("pruned", "complete"):
        if not trial.epochs:
            continue
        epochs = sorted(trial.epochs)
        scores = [trial.epochs[epoch] for epoch in epochs]
        if trial.state == "pruned":
            axes.plot(epochs, scores, color=_QUIET, linewidth=0.9, linestyle="--")
            axes.plot(epochs[-1], scores[-1], marker="x", color=_QUIET)
        else:
            axes.plot(epochs, scores, color=colour_of(trial), linewidth=1.4, marker="o", markersize=3)
    if results.best is not None and results.best.epochs:
        epochs = sorted(results.best.epochs)
        best = [results.best.epochs[epoch] for epoch in epochs]
        axes.plot(epochs, best, color=_BEST, linewidth=2.4, marker="o", label=f"best: {results.best.name}")
    complete = [trial for trial in results.ranking if trial is not results.best]
    if complete:  # in the colour of one in the middle
        axes.plot([], [], color=colour_of(complete[len(complete) // 2]), linewidth=1.4, label="trained to the end")
    if results.of_state("pruned"):
        axes.plot([], [], color=_QUIET, linestyle="--", marker="x", label="stopped early")
    axes.set_xlabel("epoch")
    _finish(axes, results)
    return figure


def _finish(axes: Axes, results: SweepResults) -> None:
    """Label the scores, put whole numbers along the x-axis, and the legend beside the axes."""
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    _label_scores(axes, results)
    axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))


def importance(results: SweepResults) -> Figure:
    """Return the share of each setting in the differences between scores."""
    ordered = sorted(results.importance.items(), key=lambda item: item[1])
    figure = Figure(figsize=(8.6, 0.8 + 0.4 * len(ordered)), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh([_shortened(key, 40) for key, _ in ordered], [share for _, share in ordered], color=_LINE)
    axes.bar_label(bars, [f"{share:.0%}" for _, share in ordered], padding=3)
    axes.set_xlim(0, 1.08)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:.0%}"))
    axes.set_xlabel("share of the differences between scores")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def slices(results: SweepResults) -> Figure:
    """Return, for each setting, the scores of the complete trials by its value."""
    keys = list(results.keys)
    columns = min(_COLUMNS, len(keys))
    rows = -(-len(keys) // columns)
    figure = Figure(figsize=(max(4.4, 2.9 * columns), 2.7 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for axes, key in zip(grid.flat, keys, strict=False):
        scale = _Scale(results, key)
        trials = [trial for trial in results.ranking if key in trial.values]
        axes.scatter(
            [scale.place(trial) for trial in trials],
            [trial.score for trial in trials],
            c=[_colours(results)(trial) for trial in trials],
            edgecolors="white",
            linewidths=0.5,
            s=44,
        )
        _ring(axes, results, scale.place)
        scale.label(axes)
        axes.set_xlabel(_shortened(key, 30))
        axes.grid(alpha=0.3)
    for axes in list(grid.flat)[len(keys) :]:
        axes.set_visible(False)
    for row in grid:
        _label_scores(row[0], results)
    return figure


def parallel_coordinates(results: SweepResults) -> Figure:
    """Return each complete trial as a line through the values of its settings to its score on the right."""
    keys = list(results.keys)
    figure = Figure(figsize=(max(6.0, 1.6 * (len(keys) + 1)), 4.0), layout="constrained")
    axes = figure.subplots()
    scales = [_Scale(results, key) for key in keys]
    colour_of = _colours(results)
    low, high = _score_limits(results)
    trials = [trial for trial in reversed(results.ranking) if all(key in trial.values for key in keys)]
    for trial in trials:
        heights = [scale.height(trial) for scale in scales]
        heights.append(((trial.score or 0.0) - low) / (high - low))
        is_best = trial is results.best
        colour = _BEST if is_best else colour_of(trial)
        axes.plot(range(len(heights)), heights, color=colour, linewidth=2.6 if is_best else 1.2, alpha=0.9)
    for place, scale in enumerate(scales):
        axes.axvline(place, color="black", linewidth=0.8)
        for height, text in scale.marks():
            axes.text(place + 0.03, height, text, fontsize=8, va="center", parse_math=False, bbox=_PAPER)
    axes.axvline(len(keys), color="black", linewidth=0.8)
    for height in np.linspace(0, 1, 4):
        text = results.shown(low + float(height) * (high - low))
        axes.text(len(keys) + 0.03, height, text, fontsize=8, va="center", bbox=_PAPER)
    names = [*(_broken(key) for key in keys), results.metric]
    axes.set_xticks(range(len(names)), names, fontsize=9, parse_math=False)
    axes.set_yticks([])
    axes.set_xlim(-0.15, len(keys) + 0.45)
    axes.set_ylim(-0.06, 1.06)
    axes.spines[:].set_visible(False)
    axes.tick_params(axis="x", length=0)
    mappable = ScalarMappable(Normalize(low, high), _COLOURS if results.is_higher_better else _COLOURS.reversed())
    bar = figure.colorbar(mappable, ax=axes, shrink=0.8)
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda score, _: results.shown(score)))
    return figure


_PAPER = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.6}


class _Scale:
    """Where the values of one setting lie along an axis."""

    def __init__(self, results: SweepResults, key: str) -> None:
        self.key = key
        values = [trial.values[key] for trial in results.trials if key in trial.values]
        self.is_number = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
        is_positive = self.is_number and all(value > 0 for value in values)
        self.is_logarithmic = key in results.logarithmic and is_positive
        ordered = sorted(values) if self.is_number else values
        texts = list(dict.fromkeys(shown_value(value) for value in ordered))
        are_few = key in results.choices and len(texts) <= _MOST_LABELS
        self.names = texts if are_few or not self.is_number else []
        places = [self._position(value) for value in values]
        self.low, self.high = (min(places), max(places)) if places else (0.0, 1.0)

    def place(self, trial: TrialResult) -> float:
        """Return the place of a trial's value along an axis that `label` has labelled."""
        value = trial.values[self.key]
        return float(self.names.index(shown_value(value))) if self.names else float(value)

    def height(self, trial: TrialResult) -> float:
        """Return the place of a trial's value between 0 and 1."""
        return self._share(self._position(trial.values[self.key]))

    def marks(self) -> list[tuple[float, str]]:
        """Return places between 0 and 1 and what stands there."""
        if self.names:
            return [(self._share(float(place)), _shortened(name)) for place, name in enumerate(self.names)]
        places = np.linspace(self.low, self.high, 4) if self.high > self.low else np.array([self.low])
        return [(self._share(float(x)), shown_value(_value(x, self.is_logarithmic))) for x in places]

    def label(self, axes: Axes) -> None:
        if self.names:
            names = [_shortened(name) for name in self.names]
            axes.set_xticks(range(len(names)), names, fontsize=8, parse_math=False)
            if max(map(len, names)) > 6 and len(names) > 3:
                axes.tick_params(axis="x", rotation=30)
            axes.set_xlim(-0.5, len(names) - 0.5)
        elif self.is_logarithmic:
            axes.set_xscale("log")

    def _position(self, value: Any) -> float:
        if self.names:
            return float(self.names.index(shown_value(value)))
        return math.log(value) if self.is_logarithmic else float(value)

    def _share(self, position: float) -> float:
        return 0.5 if self.high == self.low else (position - self.low) / (self.high - self.low)


def _value(position: float, is_logarithmic: bool) -> float:
    return float(f"{math.exp(position) if is_logarithmic else position:.2g}")


def _points(trials: Sequence[TrialResult]) -> tuple[list[int], list[float]]:
    return [trial.number for trial in trials], [trial.score or 0.0 for trial in trials]


def _ring(axes: Axes, results: SweepResults, place: Callable[[TrialResult], float]) -> None:
    if results.best is not None and results.best.score is not None:
        axes.scatter(
            place(results.best), results.best.score, s=130, facecolors="none", edgecolors=_BEST, linewidths=2, zorder=4
        )


def _score_limits(results: SweepResults) -> tuple[float, float]:
    """Return the lowest and the highest score of the complete trials, apart from each other."""
    scores: NDArray[np.float64] = np.array([trial.score for trial in results.ranking])
    if not len(scores) or scores.min() == scores.max():
        middle = float(scores[0]) if len(scores) else 0.0
        return middle - 0.005, middle + 0.005
    return float(scores.min()), float(scores.max())


def _colours(results: SweepResults) -> Callable[[TrialResult], Any]:
    low, high = _score_limits(results)

    def colour(trial: TrialResult) -> Any:
        share = ((trial.score or 0.0) - low) / (high - low)
        return _COLOURS(share if results.is_higher_better else 1 - share)

    return colour


def _label_scores(axes: Axes, results: SweepResults) -> None:
    axes.set_ylabel(results.metric)
    if results.metric == "val/accuracy":
        axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.4g}%"))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _shortened(text: str, most: int = _LONGEST_LABEL) -> str:
    printable = "".join(character if character.isprintable() else "\ufffd" for character in text)
    return printable if len(printable) <= most else f"{printable[: most - 1]}…"


def _broken(key: str) -> str:
    """Return a dotted key on two lines."""
    section, dot, name = key.partition(".")
    return f"{_shortened(section)}.\n{_shortened(name)}" if dot else _shortened(key)
