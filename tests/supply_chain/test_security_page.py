"""SECURITY.md names tests and commands that exist."""

import re

from tests.documented import ROOT, named_paths
from tests.faults.bench import EXPERIMENTS

PAGE = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
PROMISES = re.findall(r"^\| [^|]+ \| ([^|]*`(?:\w+::)?\w+`) \|$", PAGE, re.MULTILINE)


def test_each_promise_has_a_test_that_exists() -> None:
    rows = [line for line in PAGE.partition("## What is not promised")[0].splitlines() if line.startswith("| ")]
    assert len(rows) - 3 == len(PROMISES) > 20, "a row without a test"
    for cell in PROMISES:
        for file, name in re.findall(r"`(\w+)::(\w+)`", cell):
            [path] = (ROOT / "tests").rglob(f"test_{file}.py")
            assert f"def test_{name}(" in path.read_text(encoding="utf-8"), f"{file}::{name}"


def test_each_experiment_is_of_the_fault_bench() -> None:
    named = re.findall(r"\| ([A-Z]\d) `(\w+)` \|", PAGE)
    assert len(named) > 5
    assert set(named) <= {(experiment.row, experiment.name) for experiment in EXPERIMENTS}
    assert [cell for cell in PROMISES if "::" not in cell] == [f"{row} `{name}`" for row, name in named]


def test_each_file_that_is_named_exists() -> None:
    for name in {*named_paths(PAGE), *re.findall(r"scripts/[\w.]*\w", PAGE)}:
        assert name == "models/" or (ROOT / name).exists(), name
