"""T1: several first runs at once on an SQLite store that does not exist yet."""

import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from tests.faults.experiment import Experiment, Trial
from tests.faults.program import PROGRAM, wrong_ending
from tests.runs.recorded import record_problem
from tests.tiny_run import TINY

_AT_ONCE = 8
_DATABASE, _FILES = Path("mlruns/mlflow.db"), Path("mlruns/artifacts")
_WORDS = [word for word in TINY if word != "tracking=none"]


def start_at_once(number: int, folder: Path) -> Iterator[Trial]:
    """Train `number` runs, eight at a time on a store of their own."""
    for first in range(0, number, _AT_ONCE):
        place = folder / str(first)
        place.mkdir()
        names = [f"run{number}" for number in range(first, min(first + _AT_ONCE, number))]
        problems = trained_at_once(place, names)
        surplus = surplus_problem(place / _DATABASE, names)
        for name in names:
            found = problems[name] or record_problem(place / _DATABASE, place / _FILES, place / "models" / name)
            yield Trial(f"{len(names)} runs at once", found or (surplus if name == names[-1] else ""))


def trained_at_once(folder: Path, names: list[str]) -> dict[str, str]:
    """Train runs of these names, all at the same time, and return what was wrong with the end of each."""
    running = {}
    for name in names:
        with (folder / f"{name}.log").open("wb") as log:
            line = [*PROGRAM, "train", *_WORDS, f"run_name={name}"]
            running[name] = subprocess.Popen(line, cwd=folder, stdout=log, stderr=log)
    return {name: _ending(process.wait(), folder / f"{name}.log") for name, process in running.items()}


def _ending(exit_code: int, log: Path) -> str:
    text = log.read_text(errors="replace")
    return wrong_ending(exit_code, text, expected=0) or ("its record has gaps" if "has gaps" in text else "")


def surplus_problem(database: Path, names: list[str]) -> str:
    """Return which runs or experiments the store has that nobody began, or ""."""
    with closing(sqlite3.connect(database)) as connection:
        runs = sorted(name for [name] in connection.execute("SELECT name FROM runs"))
        experiments = sorted(name for [name] in connection.execute("SELECT name FROM experiments"))
    if runs != sorted(names):
        return f"the store has the runs {runs}"
    return "" if experiments == ["Default", "cifar10"] else f"the store has the experiments {experiments}"


def lose_a_run(_: int, folder: Path) -> Iterator[Trial]:
    """Delete the run that the store has recorded."""
    trained_at_once(folder, ["lost"])
    with closing(sqlite3.connect(folder / _DATABASE)) as connection, connection:
        connection.execute("DELETE FROM runs")
    yield Trial("the run is deleted", record_problem(folder / _DATABASE, folder / _FILES, folder / "models/lost"))


RUNS_AT_ONCE = Experiment(
    row="T1",
    name="runs_at_once",
    claim="Of eight first runs at once on one SQLite file, each is recorded whole and once.",
    run=start_at_once,
    short=3,
    full=40,
    control=lose_a_run,
)
