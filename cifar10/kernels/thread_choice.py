"""How many threads compute a small batch: all of them, or fewer while other programs use the processors.

The threads of a kernel wait for each other at its end. If another program interrupts one of them, all of them wait for
some milliseconds, which is more than a small batch takes. Then fewer threads are faster.

The choice depends on measured times only, so results must not depend on the number of threads.
"""

_PERIOD_SECONDS, _PERIOD_BATCHES = 0.05, 4
"""The least length of a period: several times as long as threads usually wait for an interrupted one."""
_SLOW = 1.5
"""A mean time of so many times the least one says that threads wait for each other."""
_SHORTEST_PAUSE, _LONGEST_PAUSE = 8, 64
"""Periods between trials, which bound what trials cost: one period in nine, later one in 65."""


class ThreadChoice:
    """The number of threads for batches of about the same size.

    Batches are timed in periods of at least 0.05 seconds of computing. After a period with slow batches, half as many
    threads are tried for a period; with fewer threads than at the start, twice as many are tried from time to time.
    The faster number is kept. Pauses between trials become longer while trials fail, and shorter while all threads are
    fast.

    Args:
        most: The number of threads at the start, and the largest.
    """

    def __init__(self, most: int) -> None:
        self.number = self._most = most
        self._least: dict[int, float] = {}
        """Number of threads -> the least seconds an image."""
        self._before: tuple[int, float] | None = None
        """During a trial: the number of threads before it, and their mean seconds an image."""
        self._pause, self._periods_left = _SHORTEST_PAUSE, 0
        self._begin_period()

    def record(self, num_images: int, seconds: float) -> None:
        """Take the time of a batch into account, which was computed by `number` threads; this may change `number`."""
        self._batches += 1
        self._images += num_images
        self._seconds += seconds
        of_image = seconds / num_images
        self._least[self.number] = min(of_image, self._least.get(self.number, of_image))
        if self._seconds >= _PERIOD_SECONDS and self._batches >= _PERIOD_BATCHES:
            self._end_period(self._seconds / self._images)
            self._begin_period()

    def _begin_period(self) -> None:
        self._batches, self._images, self._seconds = 0, 0, 0.0

    def _end_period(self, mean: float) -> None:
        if self._before is not None:
            self._end_trial(mean, *self._before)
            return
        is_slow = mean > _SLOW * self._least[self.number]
        if self.number == self._most and not is_slow:
            self._pause = max(_SHORTEST_PAUSE, self._pause // 2)
        if self._periods_left > 0:
            self._periods_left -= 1
        elif is_slow and self.number > 1:
            self._try(self.number // 2, mean)
        elif self.number < self._most:
            self._try(min(2 * self.number, self._most), mean)

    def _try(self, number: int, mean: float) -> None:
        self._before, self.number = (self.number, mean), number

    def _end_trial(self, mean: float, number_before: int, mean_before: float) -> None:
        self._before = None
        if mean >= mean_before:
            if self.number < number_before:  # so threads do not wait: all batches take longer than they did once
                self._least[number_before] = mean_before
            self.number = number_before
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
            self._periods_left = self._pause
        elif self.number < number_before:
            self._periods_left = self._pause
