"""The report of a sweep: the best trial, pictures of what matters, and all trials."""

from collections.abc import Iterator, Sequence

from cifar10.analysis.report import Number, Numbers, Part, Picture, Report, Section, Table, Text
from cifar10.analysis.sweep_figures import history, importance, learning_curves, parallel_coordinates, slices
from cifar10.analysis.sweep_results import SweepResults, short_names, shown_value
from cifar10.data.class_names import printable
from cifar10.wording import counted

_LEAST = 2  # complete trials of which there is something to compare


def sweep_report(results: SweepResults, line: str, origin: Sequence[tuple[str, str]]) -> Report:
    """Return the report.

    Args:
        results: What is known so far.
        line: That trains the best trial as an ordinary run; empty if there is none.
        origin: Data, machine and so on.
    """
    total = counted(len(results.trials), "trial")
    sections = [
        Section("Best", list(_best(results, line))),
        Section("Course", list(_course(results))),
        Section("What matters", list(_settings(results))),
        Section("All trials", list(_trials(results))),
    ]
    subtitle = f"{total}: {results.counts()}; compared by {results.metric}, of validation images"
    return Report(f"Sweep {printable(results.study)}", subtitle, [each for each in sections if each.parts], origin)


def _best(results: SweepResults, line: str) -> Iterator[Part]:
    best = results.best
    if best is None:
        reasons = [trial.reason for trial in results.trials if trial.reason]
        because = f" The first failed: {reasons[0]}." if reasons else ""
        yield Text(f"No trial is complete.{because}")
        return
    entries = [Number(results.metric, results.shown(best.score), f"{best.name}, of validation images")]
    if "test/accuracy" in results.test:
        entries.append(Number("test accuracy", f"{results.test['test/accuracy']:.2%}", "images that chose nothing"))
    if len(results.ranking) > 1:
        second = results.ranking[1]
        entries.append(Number("second best", results.shown(second.score), second.name))
    yield Numbers(entries)
    yield Table(["setting", "value of the best trial"], [[key, shown_value(x)] for key, x in best.values.items()])
    yield Text(
        "The best of many trials owes a part of its score to chance: it was chosen by these images. Train it with "
        "several seeds, and compare the test accuracy."
    )
    yield Text(f"Train it: {line}")


def _course(results: SweepResults) -> Iterator[Part]:
    if not results.ranking:
        return
    yield Picture(history(results), "Score of each trial, and the best so far", "Each trial, in the order of planning.")
    if any(len(trial.epochs) > 1 for trial in results.trials):
        yield Picture(
            learning_curves(results),
            "Score of each trial by epoch",
            "The course of each trial; those that were stopped early end with a cross.",
        )


def _settings(results: SweepResults) -> Iterator[Part]:
    if len(results.ranking) < _LEAST:
        return
    if results.importance:
        yield Picture(
            importance(results),
            "Share of each setting in the differences between scores",
            "How much of the differences between the complete trials each setting explains by itself (fANOVA).",
        )
    yield Picture(
        slices(results),
        "Score by the value of each setting",
        "Each complete trial by the value of one setting. The lighter, the better; the ring is the best.",
    )
    if len(results.keys) > 1:
        yield Picture(
            parallel_coordinates(results),
            "The values of all settings of each trial",
            "Each complete trial is a line through its values to its score on the right; the best one is red.",
        )


def _trials(results: SweepResults) -> Iterator[Part]:
    head = ["trial", "state", results.metric, *short_names(results.keys), "epochs", "seconds", "attempts", "reason"]
    ordered = [*results.ranking, *(trial for trial in results.trials if trial.state != "complete")]
    rows = [
        [
            trial.name,
            trial.state,
            results.shown(trial.score),
            *(shown_value(trial.values[key]) if key in trial.values else "" for key in results.keys),
            max(trial.epochs, default=0),
            None if trial.seconds is None else round(trial.seconds),
            trial.attempts,
            trial.reason,
        ]
        for trial in ordered
    ]
    yield Table(head, rows, "The complete ones first, by score. A click on a column sorts it.")
