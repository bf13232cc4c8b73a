"""Drift: are incoming images like those that the network was trained on?

A `DriftLog` counts brightness, contrast, confidence and predicted classes of incoming images by the hour, in a SQLite
file. `read_drift` compares the counts with the reference of the network. No image is kept.

Shapes: B images of S x S pixels, K classes.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cifar10.errors import UserError
from cifar10.inference.reference import counts_of
from cifar10.serving.database import Layout, writing
from cifar10.wording import counted

DEFAULT_PATH: Final = Path("data/serving/incoming.db")
UNLIKE: Final = "unlike"
"""Measure beside those of a `Reference`: images like the training data, and images unlike them."""

_LOGGER = logging.getLogger(__name__)
_FLUSH_SECONDS = 10.0
_KEPT_HOURS = 24 * 400
_MOST_UNWRITTEN = 100_000
"""Bins that wait for a file that cannot be written; then they are dropped."""

LAYOUT: Final = Layout(
    content="counts of incoming images",
    application_id=0x43494644,
    version=1,
    tables="""
CREATE TABLE counts (
    hour INTEGER NOT NULL,
    model TEXT NOT NULL,
    measure TEXT NOT NULL,
    bin INTEGER NOT NULL,
    images INTEGER NOT NULL,
    PRIMARY KEY (hour, model, measure, bin)
) WITHOUT ROWID""",
    is_durable=False,
    most_bytes=2**30,
)
_ADD = """
INSERT INTO counts VALUES (?, ?, ?, ?, ?)
ON CONFLICT (hour, model, measure, bin) DO UPDATE SET images = images + excluded.images
"""

_Bin = tuple[int, str, str, int]
"""Hour since 1970, weights digest, measure, number of the bin."""


class DriftLog:
    """Counts incoming images, and adds the counts to a file every ten seconds, in a thread of its own.

    A file that cannot be written costs its counts, and one warning.

    Args:
        path: The file, which several processes may share; it is made with the first counts.
        weights_digest: Of the network, as in `Predictor.origin`; counts of other networks are kept apart.
        clock: Seconds since 1970.
    """

    def __init__(self, weights_digest: str, path: Path = DEFAULT_PATH, clock: Callable[[], float] = time.time) -> None:
        self.path = path
        self.weights_digest = weights_digest
        self._clock = clock
        self._lock = threading.Lock()
        self._counts: Counter[_Bin] = Counter()
        self._writing = threading.Lock()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._has_warned = False

    def add(
        self,
        pixels: NDArray[np.uint8],
        probabilities: NDArray[np.float32],
        unlike: NDArray[np.bool_] | None = None,
    ) -> None:
        """Count images; raises nothing and does not wait for the file.

        Args:
            pixels: uint8 (B, S, S, 3), RGB.
            probabilities: (B, K), as in the answer.
            unlike: Whether each image is unlike the training data, (B,), if that is known.
        """
        if not len(pixels):
            return
        hour = int(self._clock() // 3600)
        counts: list[tuple[str, NDArray[np.int64]]] = [*counts_of(pixels, probabilities).items()]
        if unlike is not None:
            counts.append((UNLIKE, np.bincount(unlike, minlength=2)))
        with self._lock:
            for measure, numbers in counts:
                for position in np.flatnonzero(numbers).tolist():
                    self._counts[hour, self.weights_digest, measure, position] += int(numbers[position])
        if self._thread is None:
            self._start()

    def flush(self) -> None:
        """Add all counts to the file now. May be called from any thread; raises nothing."""
        with self._writing:
            with self._lock:
                counts, self._counts = self._counts, Counter()
            if not counts:
                return
            try:
                _write(self.path, counts)
            except UserError as error:
                self._keep(counts, error)

    def close(self) -> None:
        """Add all counts to the file, and end the thread. May be called several times."""
        self._closed.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        self.flush()

    def _start(self) -> None:
        with self._lock:
            if self._thread is None and not self._closed.is_set():
                self._thread = threading.Thread(target=self._run, name="drift log", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while not self._closed.wait(_FLUSH_SECONDS):
            self.flush()

    def _keep(self, counts: Counter[_Bin], error: UserError) -> None:
        """Add counts again that could not be written, unless they are too many, and warn once."""
        with self._lock:
            if len(self._counts) + len(counts) <= _MOST_UNWRITTEN:
                self._counts.update(counts)
        if not self._has_warned:
            self._has_warned = True
            images = sum(number for (_, _, measure, _), number in counts.items() if measure == "brightness")
            _LOGGER.warning("drift is not recorded for %s for now: %s", counted(images, "image"), error)


def _write(path: Path, counts: Counter[_Bin]) -> None:
    with writing(path, LAYOUT) as connection:
        connection.executemany(_ADD, [(*key, number) for key, number in counts.items()])
        newest = max(hour for hour, *_ in counts)
        connection.execute("DELETE FROM counts WHERE hour < ?", (newest - _KEPT_HOURS,))
