"""The results of a sweep: its trials, which is the best, and as tables."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

State = Literal["complete", "pruned", "failed", "killed", "running", "waiting"]
"""pruned: stopped early, because others were better. killed: its process ended, too often for another attempt."""


@dataclass(frozen=True)
class TrialResult:
    """One trial."""

    number: int
    """From 0, in the order in which trials were planned."""
    state: State
    values: Mapping[str, Any]
    """Key of a setting -> number, text, true, false or null; a list is text. Empty if it has not begun."""
    score: float | None = None
    """Of the validation images, of the last epoch or the best one; None if it has none."""
    epochs: Mapping[int, float] = field(default_factory=dict)
    """Number of an epoch, from 1 -> its score."""
    seconds: float | None = None
    """Of the last attempt."""
    attempts: int = 1
    reason: str = ""
    """Why it failed."""

    @property
    def name(self) -> str:
        """Name of its run."""
        return f"trial-{self.number:04d}"


@dataclass(frozen=True)
class SweepResults:
    """A sweep, finished or not.

    Args:
        study: Its name.
        metric: What is compared, such as val/accuracy.
        is_higher_better: Whether a higher score is better.
        logarithmic: Settings whose logarithm was drawn evenly.
        choices: Settings with a few values to choose from.
        keys: The settings that differ.
        trials: In order.
        importance: Key of a setting -> its share of the differences between scores; empty: not known.
        test: Scores of the best trial on the test images; empty: not computed.
    """

    study: str
    metric: str
    is_higher_better: bool
    keys: Sequence[str]
    logarithmic: frozenset[str]
    choices: frozenset[str]
    trials: Sequence[TrialResult]
    importance: Mapping[str, float]
    test: Mapping[str, float]

    def of_state(self, *states: State) -> list[TrialResult]:
        """Return the trials in these states, in order."""
        return [trial for trial in self.trials if trial.state in states]

    @cached_property
    def ranking(self) -> list[TrialResult]:
        """The complete trials, the best first; of equals, the first."""
        complete = [trial for trial in self.of_state("complete") if trial.score is not None]
        return sorted(complete, key=lambda trial: -self.sign * (trial.score or 0.0))

    @property
    def sign(self) -> int:
        """1 if a higher score is better, else -1."""
        return 1 if self.is_higher_better else -1

    @property
    def best(self) -> TrialResult | None:
        return self.ranking[0] if self.ranking else None

    @property
    def is_complete(self) -> bool:
        """Whether no trial waits or runs."""
        return not self.of_state("waiting", "running")

    def shown(self, score: float | None) -> str:
        """Return a score for people: an accuracy in percent."""
        if score is None:
            return ""
        return f"{score:.2%}" if self.metric == "val/accuracy" else f"{score:.4f}"

    def counts(self) -> str:
        """Return how many trials are in each state, in words."""
        names = ("complete", "pruned", "failed", "killed", "running", "waiting")
        found = {name: sum(trial.state == name for trial in self.trials) for name in names}
        return ", ".join(f"{number} {name}" for name, number in found.items() if number)


def shown_value(value: Any) -> str:
    """Return the value of a setting, a fraction with four digits."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return (
        {None: "null", True: "true", False: "false"}[value] if value is None or isinstance(value, bool) else f"{value}"
    )


def short_names(keys: Sequence[str]) -> list[str]:
    """Return the last part of each dotted key, or the whole key where two end alike."""
    last = [key.rpartition(".")[2] for key in keys]
    return [name if last.count(name) == 1 else key for key, name in zip(keys, last, strict=True)]


def table_of(results: SweepResults, most: int) -> str:
    """Return the best trials as aligned text, at most `most`."""
    head = ["trial", results.metric, *short_names(results.keys), "seconds"]
    rows = [
        [
            trial.name,
            results.shown(trial.score),
            *(shown_value(trial.values[key]) if key in trial.values else "" for key in results.keys),
            "" if trial.seconds is None else f"{trial.seconds:.0f}",
        ]
        for trial in results.ranking[:most]
    ]
    widths = [max(len(row[place]) for row in [head, *rows]) for place in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in [head, *rows]
    )


def csv_of(results: SweepResults) -> str:
    """Return all trials as CSV."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["trial", "state", results.metric, *results.keys, "epochs", "seconds", "attempts", "reason"])
    for trial in results.trials:
        values = [trial.values.get(key, "") for key in results.keys]
        score = "" if trial.score is None else trial.score
        seconds = "" if trial.seconds is None else round(trial.seconds, 1)
        epochs = max(trial.epochs, default=0)
        writer.writerow([trial.name, trial.state, score, *values, epochs, seconds, trial.attempts, trial.reason])
    return text.getvalue()


def plain_results(results: SweepResults) -> dict[str, Any]:
    """Return everything as plain values, for JSON."""
    best = results.best
    return {
        "study": results.study,
        "metric": results.metric,
        "is_higher_better": results.is_higher_better,
        "counts": results.counts(),
        "best": None if best is None else {"trial": best.name, "score": best.score, "values": dict(best.values)},
        "importance": dict(results.importance),
        "test": dict(results.test),
        "trials": [
            {
                "trial": trial.name,
                "state": trial.state,
                "score": trial.score,
                "values": dict(trial.values),
                "epochs": {str(epoch): score for epoch, score in trial.epochs.items()},
                "seconds": trial.seconds,
                "attempts": trial.attempts,
                "reason": trial.reason,
            }
            for trial in results.trials
        ],
    }
