"""The results of a sweep are ranked, written as text, CSV, JSON and HTML, and drawn whatever the trials were."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cifar10.analysis.report import png_of
from cifar10.analysis.sweep_figures import history, importance, learning_curves, parallel_coordinates, slices
from cifar10.analysis.sweep_report import sweep_report
from cifar10.analysis.sweep_results import SweepResults, TrialResult, csv_of, plain_results, table_of

KEYS = ["optimizer.lr", "model", "training.epochs"]


def trial(number: int, score: float | None, state: Any = "complete", **more: Any) -> TrialResult:
    values = {"optimizer.lr": 0.01 * (number + 1), "model": ["speed", "simple_cnn"][number % 2], "training.epochs": 4}
    epochs = {} if score is None else {1: score / 2, 2: score}
    return TrialResult(number, state, values, score, epochs, 12.0, **more)


def results_of(*trials: TrialResult, is_higher_better: bool = True, **more: Any) -> SweepResults:
    metric = "val/accuracy" if is_higher_better else "val/loss"
    logarithmic = frozenset({"optimizer.lr"})
    return SweepResults(
        "night",
        metric,
        is_higher_better,
        KEYS,
        logarithmic,
        frozenset({"model"}),
        trials,
        more.pop("importance", {}),
        more,
    )


MIXED = (
    trial(0, 0.5),
    trial(1, 0.7),
    trial(2, 0.9, "pruned"),
    trial(3, 0.6),
    trial(4, None, "failed", reason="the <loss> is not finite"),
    TrialResult(5, "waiting", {}),
)


def test_the_best_is_the_best_complete_trial_in_either_direction() -> None:
    assert [each.number for each in results_of(*MIXED).ranking] == [1, 3, 0]
    assert results_of(*MIXED, is_higher_better=False).best is MIXED[0]
    assert results_of(MIXED[2]).best is None


def test_of_equal_trials_the_first_is_the_best() -> None:
    assert results_of(trial(0, 0.5), trial(1, 0.5)).best is not None
    assert [each.number for each in results_of(trial(0, 0.5), trial(1, 0.5)).ranking] == [0, 1]


def test_the_table_lists_the_best_first() -> None:
    lines = table_of(results_of(*MIXED), most=2).splitlines()
    assert lines[0].split() == ["trial", "val/accuracy", "lr", "model", "epochs", "seconds"]
    assert [line.split()[:3] for line in lines[1:]] == [
        ["trial-0001", "70.00%", "0.02"],
        ["trial-0003", "60.00%", "0.04"],
    ]


def test_csv_and_json_hold_every_trial() -> None:
    results = results_of(*MIXED)
    rows = list(csv.DictReader(io.StringIO(csv_of(results))))
    assert [row["state"] for row in rows] == [each.state for each in MIXED]
    assert float(rows[1]["val/accuracy"]) == 0.7 and rows[4]["reason"] == "the <loss> is not finite"
    plain = json.loads(json.dumps(plain_results(results), allow_nan=False))
    assert plain["best"]["trial"] == "trial-0001" and len(plain["trials"]) == 6
    assert plain["counts"] == "3 complete, 1 pruned, 1 failed, 1 waiting"


def test_the_report_escapes_and_says_what_to_type(tmp_path: Path) -> None:
    results = results_of(*MIXED, importance={"optimizer.lr": 0.8, "model": 0.2})
    sweep_report(results, "python commands.py train optimizer.lr=0.02", [("data", "shapes")]).write(tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert "&lt;loss&gt;" in page and "<loss>" not in page
    assert "train optimizer.lr=0.02" in page and page.count("data:image/png") == 5


@pytest.mark.parametrize(
    "trials",
    [
        [],
        [TrialResult(0, "waiting", {})],
        [trial(0, None, "failed", reason="no memory")],
        [trial(0, 0.5)],
        [trial(0, 0.5), trial(1, 0.5)],
        [trial(number, 0.5 + number / 100) for number in range(40)],
    ],
    ids=["none", "waiting", "failed", "one", "equal", "many"],
)
def test_every_course_can_be_reported(trials: list[TrialResult], tmp_path: Path) -> None:
    sweep_report(results_of(*trials), "", []).write(tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_size > 1000


@pytest.mark.parametrize("draw", [history, learning_curves, slices, parallel_coordinates])
@pytest.mark.parametrize("is_higher_better", [True, False])
def test_settings_of_every_kind_can_be_drawn(draw: Any, is_higher_better: bool) -> None:
    odd = [None, True, "$a_b$", "a\nb", "x" * 300, "[1, 2]", 3, 0.5]
    trials = [
        TrialResult(number, "complete", {"optimizer.lr": 0.0, "model": value, "training.epochs": number}, float(number))
        for number, value in enumerate(odd)
    ]
    assert png_of(draw(results_of(*trials, is_higher_better=is_higher_better))).startswith(b"\x89PNG")


def test_the_history_never_falls_and_the_loss_never_rises() -> None:
    for is_higher_better in (True, False):
        axes = history(results_of(*MIXED, is_higher_better=is_higher_better)).axes[0]
        best = np.asarray(axes.lines[0].get_ydata()).tolist()
        assert best == sorted(best, reverse=not is_higher_better)
        assert best == ([0.5, 0.7, 0.7, 0.7] if is_higher_better else [0.5] * 4)


def test_the_longest_bar_is_the_most_important_setting() -> None:
    axes = importance(results_of(*MIXED, importance={"model": 0.1, "optimizer.lr": 0.9})).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["model", "optimizer.lr"]
    assert [bar.get_width() for bar in axes.patches] == [0.1, 0.9]  # type: ignore[attr-defined]
