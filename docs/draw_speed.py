"""Draw accuracy against time for every measured way to train on CIFAR-10. Reads benchmarks/results; writes speed.svg.

python docs/draw_speed.py [FILE.svg | FILE.png]
"""

import itertools
import json
import statistics
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator
from matplotlib.transforms import Bbox

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
_TARGET = 94.0  # percent
_USUAL_EPOCHS = 30  # of the usual pipeline; see benchmarks/usual_pipeline.py
_INK, _SOFT, _PAPER, _OURS, _PEERS = "#22303c", "#5f6f7d", "#ffffff", "#3a6ea5", "#d1603d"
_LOWEST, _HIGHEST = 75.0, 98.0  # percent
_NEAR, _FURTHER = 9, 27  # points between a marker and its label, and to the next place for one
_RADIUS = 8  # pixels around a marker
_GRADES = (75, 80, 85, 90, 92, 93, 94, 95, 96, 97)
_TICKS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)  # minutes


class Way(NamedTuple):
    """What one result file says of one way to train."""

    name: str
    hardware: str
    minutes: float
    """Wall time of the whole process, or what is projected for it; the mean of the seeds."""
    accuracies: list[float]
    """Percent of the test images, with test-time augmentation where there is any; one a seed."""
    plain: float | None
    """Percent of the images alone; the mean of the seeds."""
    is_ours: bool
    is_projected: bool

    def label(self) -> str:
        """Return what stands beside the marker."""
        seeds = len(self.accuracies)
        time = "projected" if self.is_projected else f"{seeds} seed{'s' * (seeds != 1)}"
        return f"{self.name}\n{statistics.mean(self.accuracies):.2f} %, {self.minutes:.3g} min ({time})"


def find_ways(results: Path = RESULTS) -> list[Way]:
    """Return every way to train on CIFAR-10 that `results` know of: measured if it was, else projected; the newest."""
    newest: dict[tuple[str, str], Way] = {}
    found = [(path.stem, json.loads(path.read_text())) for path in results.glob("*.json")]
    usual = _usual_accuracy(found)
    for stem, result in sorted(found, key=lambda pair: _time_of(*pair)):
        for way in _read(stem, result, usual):
            known = newest.get((way.name, way.hardware))
            if known is None or known.is_projected or not way.is_projected:
                newest[way.name, way.hardware] = way
    return sorted(newest.values(), key=lambda way: way.minutes)


def _time_of(stem: str, result: dict[str, Any]) -> str:
    """Return when a result was made; of the first ones, only their file names know, and only the day."""
    return str(result.get("made", stem.rpartition("_")[2]))


def _usual_accuracy(results: Iterable[tuple[str, dict[str, Any]]]) -> float:
    """Return the percent that the usual pipeline's newest run of all its epochs has reached, on any machine.

    Before there is one, it is taken to reach the target.
    """
    full = (result for stem, result in results if stem.startswith("usual_pipeline_full_"))
    whole = [result for result in full if result["epochs"] == _USUAL_EPOCHS]  # shorter ones are trials
    return 100 * max(whole, key=lambda result: str(result["made"]))["accuracy"] if whole else _TARGET


def _read(stem: str, result: dict[str, Any], usual: float) -> Iterator[Way]:
    """Yield what the result file `stem` says; nothing if it answers another question, or is of a trial.

    Args:
        stem: Name of the file, without its ending.
        result: What is in it.
        usual: The usual pipeline's accuracy in percent, which another file has.
    """
    runs = result.get("runs", [])
    if stem.startswith(("recipe_", "race_cpu_")) and not result["overrides"] and runs[0]["data_name"] == "cifar10":
        minutes = statistics.mean(run["wall_seconds"] for run in runs) / 60
        accuracies = [100 * run["test/accuracy_tta"] for run in runs]
        plain = 100 * statistics.mean(run["test/accuracy"] for run in runs)
        yield Way(f"experiment={result['experiment']}", _hardware(runs[0]), minutes, accuracies, plain, True, False)
        if whole_runs := result.get("port_runs"):
            yield _port(whole_runs, _hardware(result), statistics.mean(run["wall"] for run in whole_runs) / 60)
        elif whole_run := result.get("port_whole_run"):  # its accuracy may be another machine's
            seconds = [figures for way, figures in result["wall_seconds"].items() if way.startswith("port ")]
            minutes = min(map(statistics.median, seconds)) / 60
            yield _port([whole_run], _hardware(result), minutes, is_projected=True)
    if stem.startswith("plain_port_") and (result["train_images"], result["test_images"]) == (50_000, 10_000):
        yield _port([result], _hardware(result), result["wall"] / 60)
    if stem.startswith("usual_pipeline_") and "seconds_to_target" in result:
        minutes = statistics.median(result["seconds_to_target"]["usual"]) / 60
        yield Way("ResNet-18, Lightning + torchvision", _hardware(result), minutes, [usual], usual, False, True)


def _port(runs: list[dict[str, Any]], hardware: str, minutes: float, is_projected: bool = False) -> Way:
    accuracies = [100 * run["accuracy_tta"] for run in runs]
    plain = 100 * statistics.mean(run["accuracy"] for run in runs)
    return Way("airbench94, plain port", hardware, minutes, accuracies, plain, False, is_projected)


def _hardware(result: dict[str, Any]) -> str:
    machine = result["machine"]
    if machine["gpu"]:
        return str(machine["gpu"])
    best = [flag for flag in ("amx_bf16", "avx512_bf16", "avx512f", "avx2", "asimd") if flag in machine["flags"]]
    return " ".join(f"{machine['cores']} cores, {machine['cpu']}, {(best or ['plain'])[0]}".split())


def draw(ways: list[Way]) -> Figure:
    """Return the picture: one above the other, what each kind of hardware has measured."""
    machines = sorted({way.hardware for way in ways}) or [""]
    figure = Figure(figsize=(9.0, 0.8 + 3.8 * len(machines)), facecolor=_PAPER, layout="constrained")
    rows = figure.subplots(len(machines), sharex=True, squeeze=False)[:, 0]
    for axes, machine in zip(rows, machines, strict=True):
        axes.set_title(machine, loc="left", fontsize=9.5, color=_INK)
        for way in ways:
            if way.hardware == machine:
                _draw_way(axes, way)
        _draw_frame(axes, ways)
    rows[-1].set_xlabel("minutes of the whole process, wall", color=_INK)
    _draw_legend(rows[-1])
    figure.draw_without_rendering()  # now everything has its place, and labels can keep out of each other's
    for axes, machine in zip(rows, machines, strict=True):
        _draw_labels(axes, [way for way in ways if way.hardware == machine])
    return figure


def _draw_way(axes: Axes, way: Way) -> None:
    colour = _OURS if way.is_ours else _PEERS
    accuracy = statistics.mean(way.accuracies)
    if way.plain is not None and way.plain != accuracy:
        axes.plot([way.minutes] * 2, [way.plain, accuracy], color=colour, linewidth=1, alpha=0.6, zorder=2)
        axes.plot(way.minutes, way.plain, "_", color=colour, markersize=8, zorder=2)
    face = _PAPER if way.is_projected else colour
    axes.plot(way.minutes, accuracy, "o", color=colour, markerfacecolor=face, markersize=8, zorder=4)


def _draw_labels(axes: Axes, ways: list[Way]) -> None:
    """Write what each marker stands for: ours above, others below what there is to see, further off if need be."""
    taken = [_place(axes, way) for way in ways]
    for way in ways:
        mean = statistics.mean(way.accuracies)
        side, accuracy = (1, mean) if way.is_ours else (-1, min(mean, way.plain or mean))
        where: dict[str, Any] = {"xy": (way.minutes, accuracy), "textcoords": "offset points"}
        for distance in itertools.count(_NEAR, _FURTHER):
            label = axes.annotate(
                way.label(),
                **where,
                xytext=(0, side * distance),
                ha="center",
                va="bottom" if way.is_ours else "top",
                bbox={"facecolor": _PAPER, "edgecolor": "none", "pad": 1.0},
                zorder=3,
                fontsize=8.5,
                color=_INK,
                linespacing=1.3,
            )
            box = label.get_window_extent()
            if not any(box.overlaps(other) for other in taken):
                break
            label.remove()
        taken.append(box)
        if distance > _NEAR:
            line = {"arrowstyle": "-", "color": _SOFT, "linewidth": 0.6}
            axes.annotate("", **where, xytext=(0, side * distance), arrowprops=line, zorder=1)


def _place(axes: Axes, way: Way) -> Bbox:
    """Return what the marker covers, and the line below it, in pixels."""
    heights = [statistics.mean(way.accuracies), way.plain or 100.0]
    corners = [(way.minutes, min(heights)), (way.minutes, statistics.mean(way.accuracies))]
    return Bbox(axes.transData.transform(corners)).padded(_RADIUS)


def _height(accuracy: Any) -> Any:
    """Return where an accuracy stands: equally far apart are those between which the errors halve."""
    return -np.log(np.maximum(100 - accuracy, 1e-3))


def _accuracy(height: Any) -> Any:
    """Undo `_height`."""
    return 100 - np.exp(-height)


def _draw_frame(axes: Axes, ways: list[Way]) -> None:
    axes.axhline(_TARGET, color=_INK, linewidth=0.9, linestyle=(0, (4, 4)), zorder=2)
    axes.set_yscale("function", functions=(_height, _accuracy))
    axes.set_ylim(_LOWEST, _HIGHEST)
    axes.set_yticks(_GRADES)
    axes.set_xscale("log")
    times = [way.minutes for way in ways] or [1.0]
    axes.set_xlim(min(times) / 4, max(times) * 4)  # room for the words at the ends
    axes.set_xticks([tick for tick in _TICKS if axes.get_xlim()[0] <= tick <= axes.get_xlim()[1]])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda minutes, _: f"{minutes:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_ylabel("test accuracy, %", color=_INK)
    axes.tick_params(colors=_SOFT)
    axes.grid(axis="y", color="#e6ebf0", linewidth=0.8, zorder=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#c4ced8")


def _draw_legend(axes: Axes) -> None:
    axes.plot([], [], color=_OURS, linewidth=4, label="ours")
    axes.plot([], [], color=_PEERS, linewidth=4, label="others, run by our scripts")
    axes.plot([], [], "_", color=_SOFT, markersize=8, label="of the image alone, without test-time augmentation")
    axes.legend(loc="lower right", fontsize=8.5, frameon=False, labelcolor=_INK)


def main() -> None:
    """Save the picture beside this script, or as the file that is named; the same results give the same bytes."""
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("speed.svg")
    mpl.rcParams["svg.hashsalt"] = "speed"
    draw(find_ways()).savefig(target, dpi=100, metadata={"Date": None} if target.suffix == ".svg" else None)


if __name__ == "__main__":
    main()
