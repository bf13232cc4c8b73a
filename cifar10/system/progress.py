"""Progress of long work on stderr: a bar on a terminal, a line every ten seconds elsewhere."""

import sys
import time
from types import TracebackType
from typing import Self

from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Counts what is done, within a `with` block.

    Args:
        name: Of the work.
        total: Number of units.
        unit: Of what is counted, in the plural.
    """

    def __init__(self, name: str, total: int, unit: str = "images") -> None:
        self.name, self.total, self.unit = name, total, unit
        self.done = 0

    def __enter__(self) -> Self:
        self._started = self._shown = time.monotonic()
        has_terminal = sys.stderr is not None and sys.stderr.isatty()
        self._bar = tqdm(
            total=self.total,
            desc=self.name,
            unit=f" {self.unit}",
            leave=False,
            dynamic_ncols=True,
            disable=not has_terminal,
        )
        return self

    def update(self, number: int) -> None:
        """Count `number` more."""
        self.done += number
        self._bar.update(number)
        now = time.monotonic()
        if self._bar.disable and now - self._shown >= _SECONDS_BETWEEN_LINES and self.done < self.total:
            self._shown = now
            left = (self.total - self.done) * (now - self._started) / max(self.done, 1)
            text = f"{self.name}: {self.done:,} of {self.total:,} {self.unit}, {left:.0f} s left"
            print(text, file=sys.stderr, flush=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
