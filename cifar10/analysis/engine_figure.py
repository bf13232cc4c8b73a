"""A figure of inference engines: accuracy against speed, the size of the model as the size of the marker."""

from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

_COLOURS = ("#3a6ea5", "#d1603d", "#4c956c", "#8d5a97", "#c9a227", "#5c6b73")
_LEAST_AREA, _LARGEST_AREA = 25.0, 140.0  # of a marker, in square points


class EnginePoint(NamedTuple):
    """A measurement of an engine."""

    name: str
    num_threads: int
    batch_size: int
    images_per_second: float
    accuracy: float
    """Between 0 and 1."""
    size_mb: float


def draw_engines(points: Sequence[EnginePoint], batch_sizes: Sequence[int]) -> Figure:
    """Return one panel for each batch size; filled markers are for the most threads, hollow ones for fewer."""
    figure = Figure(figsize=(5.2 * len(batch_sizes), 4.4), layout="constrained")
    names = list(dict.fromkeys(point.name for point in points))
    colours = {name: _COLOURS[number % len(_COLOURS)] for number, name in enumerate(names)}
    most_threads = max((point.num_threads for point in points), default=1)
    largest = max((point.size_mb for point in points), default=1.0)
    panels = figure.subplots(1, len(batch_sizes), squeeze=False, sharey=True)[0]
    for axes, batch_size in zip(panels, batch_sizes, strict=True):
        for point in (point for point in points if point.batch_size == batch_size):
            is_filled = point.num_threads == most_threads
            axes.scatter(
                point.images_per_second,
                100 * point.accuracy,
                s=max(_LEAST_AREA, _LARGEST_AREA * point.size_mb / largest),
                facecolor=colours[point.name] if is_filled else "none",
                edgecolor=colours[point.name],
                linewidth=1.5,
                label=f"{point.name}, {point.size_mb:.1f} MB" if is_filled else None,
            )
        _label(axes, batch_size)
    panels[0].set_ylabel("test accuracy, one view, %")
    title = f"filled: {most_threads} threads, hollow: fewer; larger: more megabytes" if most_threads > 1 else None
    handles, labels = panels[-1].get_legend_handles_labels()
    figure.legend(handles, labels, title=title, loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    return figure


def _label(axes: Axes, batch_size: int) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("images per second")
    axes.set_title("single images" if batch_size == 1 else f"batches of {batch_size}")
    axes.grid(alpha=0.3, which="both")
    low, high = axes.get_ylim()
    middle = (low + high) / 2
    half = max((high - low) / 2, 0.5)  # points: less would make rounding look like a loss
    axes.set_ylim(middle - half, middle + half)
