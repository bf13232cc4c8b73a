"""Wall and CPU time of a run, summed over the processes that trained it."""

import time
from dataclasses import dataclass, field


@dataclass
class Stopwatch:
    """Wall and processor time in seconds, those of earlier processes included.

    Runs from the moment when it is made, or from an earlier one: `time.monotonic()` and `time.process_time()` then.
    """

    wall_started: float = field(default_factory=time.monotonic)
    cpu_started: float = field(default_factory=time.process_time)
    earlier_wall: float = 0.0
    earlier_cpu: float = 0.0

    def seconds(self) -> dict[str, float]:
        """Return `wall_seconds` and `cpu_seconds` of the whole run so far."""
        return {
            "wall_seconds": self.earlier_wall + time.monotonic() - self.wall_started,
            "cpu_seconds": self.earlier_cpu + time.process_time() - self.cpu_started,
        }

    def go_on_from(self, seconds: dict[str, float]) -> None:
        """Add what `seconds` returned in the process that the run was begun in."""
        self.earlier_wall, self.earlier_cpu = seconds["wall_seconds"], seconds["cpu_seconds"]
