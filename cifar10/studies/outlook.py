"""Progress of a sweep on stderr: what is tried, what came of it, and the time left."""

import re
import statistics
import time
from collections.abc import Sequence

from optuna.trial import FrozenTrial, TrialState

from cifar10.analysis.sweep_results import shown_value
from cifar10.config.search_space import Values
from cifar10.studies.running import name_of
from cifar10.studies.study import REASON, ROOT
from cifar10.system.streams import print_message

_SAME = 3  # trials that fail for one reason, before any has a result, end the sweep


class Outlook:
    """Prints a line before and after each trial.

    Args:
        metric: What is compared.
        is_higher_better: Whether a higher score is better.
    """

    def __init__(self, metric: str, is_higher_better: bool) -> None:
        self.metric, self.is_higher_better = metric, is_higher_better
        self._name = ""
        self._started = 0.0

    def begin(self, root: int, trials: Sequence[FrozenTrial], values: Values) -> None:
        """Print what is tried."""
        self._name, self._started = name_of(root), time.monotonic()
        begun = sum(trial.state != TrialState.WAITING for trial in trials)
        listed = " ".join(f"{key}={shown_value(value)}" for key, value in values.items())
        print_message(f"{self._name} ({begun} of {len(trials)}): {listed}")

    def end(self, state: str, value: float | None, reason: str, trials: Sequence[FrozenTrial]) -> None:
        """Print what came of it, the best trial so far, and the time left."""
        seconds = time.monotonic() - self._started
        if state == "failed":
            result = f"failed: {reason}"
        else:
            assert value is not None
            result = f"{'stopped early at' if state == 'pruned' else ''} {self.metric} {self._shown(value)}".strip()
        print_message(f"{self._name}: {result}, {seconds:.0f} s; {self._best(trials)}{_left(trials)}")

    def _best(self, trials: Sequence[FrozenTrial]) -> str:
        complete = [(trial.value, trial) for trial in trials if trial.state == TrialState.COMPLETE]
        scored = [(value, trial) for value, trial in complete if value is not None]
        if not scored:
            return "none is complete"
        value, trial = (max if self.is_higher_better else min)(scored, key=lambda pair: pair[0])
        return f"best {self._shown(value)} by {name_of(trial.user_attrs[ROOT])}"

    def _shown(self, value: float) -> str:
        return f"{value:.2%}" if self.metric == "val/accuracy" else f"{value:.4f}"


def same_reason(trials: Sequence[FrozenTrial]) -> str | None:
    """Return why trials fail, if the first three that ended all failed for one reason; numbers in it may differ."""
    ended = [trial for trial in trials if trial.state.is_finished()]
    reasons = [str(trial.user_attrs.get(REASON, "")) for trial in ended]
    is_alike = len({re.sub(r"\d+", "", reason) for reason in reasons}) == 1
    return reasons[0] if len(ended) >= _SAME and all(reasons) and is_alike else None


def _left(trials: Sequence[FrozenTrial]) -> str:
    """Return the time that the trials that wait will take, by those that have ended and the processes there are."""
    waiting = sum(trial.state == TrialState.WAITING for trial in trials)
    ended = [trial for trial in trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    times = [trial.duration.total_seconds() for trial in ended if trial.duration is not None]
    if not waiting or not times:
        return ""
    processes = 1 + sum(trial.state == TrialState.RUNNING for trial in trials)
    seconds = statistics.mean(times) * -(-waiting // processes)
    return f"; {waiting} to go, about {f'{seconds:.0f} s' if seconds < 90 else f'{seconds / 60:.0f} min'}"
