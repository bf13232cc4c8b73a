"""The learning curves of a comparison while it trains, as a picture that is drawn again and again, and as text."""

import sys
import time
from collections.abc import Callable
from typing import Any

from tqdm import tqdm

from cifar10.analysis.pooling_figures import live_curves
from cifar10.analysis.report import png_of
from cifar10.files import atomic_write
from cifar10.laboratory.folder import Laboratory
from cifar10.laboratory.workers import Event, Failed, Finished, Trained
from cifar10.runs.folder import HISTORY
from cifar10.runs.recorded_run import read_history
from cifar10.system.streams import print_message
from cifar10.types import Metrics

CURVES = "curves.png"
_PAUSE = 19  # times as long as drawing takes, in which it is not drawn again: a twentieth of a core is enough
_LINE_SECONDS = 30.0

Show = Callable[[bytes], object]
"""Is given each picture, as PNG: a notebook shows it in place."""


class LiveCurves:
    """Collects what workers report; writes the picture; prints progress.

    Args:
        laboratory: Its folder gets the picture; its runs may have been trained in part.
        show: Also gets the picture.
    """

    def __init__(self, laboratory: Laboratory, show: Show | None = None) -> None:
        self.laboratory = laboratory
        self._show = show
        self.histories: dict[str, list[Metrics]] = {
            name: read_history(laboratory.folder / name / HISTORY) for name in laboratory.runs
        }
        self.failures: dict[str, str] = {}
        self._finished: set[str] = set()
        self._num_drawn = self._num_epochs
        self._draw_after = 0.0
        self._line_at = time.monotonic()
        self._bar: tqdm[Any] | None = None
        if sys.stderr is not None and sys.stderr.isatty():
            total = len(self.histories) * laboratory.config.training.epochs
            self._bar = tqdm(total=total, initial=self._num_epochs, unit=" epochs", leave=False, dynamic_ncols=True)

    def take(self, event: Event) -> None:
        """Add what a worker reports."""
        if isinstance(event, Trained):
            self._add(event.name, event.epochs)
        elif isinstance(event, Finished):
            self.histories[event.name] = read_history(self.laboratory.folder / event.name / HISTORY)
            self._finished.add(event.name)
        else:
            assert isinstance(event, Failed)
            self.failures[event.name] = event.reason
            print_message(f"{event.name} failed: {event.reason}")
        is_due = self._num_epochs - self._num_drawn >= self.laboratory.pooling.redraw_every
        if is_due and time.monotonic() >= self._draw_after:
            self.draw()
        self._tell()

    def close(self) -> None:
        """Draw the end."""
        if any(self.histories.values()):
            self.draw()
        if self._bar is not None:
            self._bar.close()

    def draw(self) -> None:
        """Write the picture, and show it."""
        started = time.monotonic()
        by_way: dict[str, list[list[Metrics]]] = {way: [] for way in self.laboratory.pooling.ways}
        for name, history in self.histories.items():
            if history:
                by_way[self.laboratory.runs[name][0]].append(history)
        total = len(self.histories)
        done = f"{len(self._finished)} of {total} runs done"
        caption = f"Line: median over the batches of an epoch. Band: 25 % to 75 %. {done}."
        longest = max(len(history) for history in self.histories.values())
        image = png_of(live_curves(by_way, longest, caption))
        with atomic_write(self.laboratory.folder / CURVES) as file:
            file.write(image)
        if self._show is not None:
            self._show(image)
        self._num_drawn = self._num_epochs
        self._draw_after = time.monotonic() + _PAUSE * (time.monotonic() - started)

    @property
    def _num_epochs(self) -> int:
        return sum(map(len, self.histories.values()))

    def _add(self, name: str, epochs: list[Metrics]) -> None:
        """Append epochs; those of a run that was resumed may begin before the last one known."""
        first = int(epochs[0]["epoch"])
        self.histories[name] = [*self.histories[name][:first], *epochs]

    def _tell(self) -> None:
        epochs = self.laboratory.config.training.epochs
        text = f"{len(self._finished)} of {len(self.histories)} runs done"
        if self._bar is not None:
            self._bar.set_description(text, refresh=False)
            self._bar.n = self._num_epochs
            self._bar.refresh()
        elif time.monotonic() - self._line_at >= _LINE_SECONDS:
            self._line_at = time.monotonic()
            total = len(self.histories) * epochs
            picture = self.laboratory.folder / CURVES
            print_message(f"{text}, {self._num_epochs:,} of up to {total:,} epochs; see {picture}")
