"""What MLflow's database holds of a run, compared with the run's folder: every value, once."""

import csv
import json
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

from cifar10.runs.folder import ARTIFACTS, read_settings
from cifar10.runs.mlflow_entities import parameters_of

_TIMES = ("wall_seconds", "cpu_seconds")
Point = tuple[str, int, float]
"""Name of a metric, step and value."""


def record_problem(database: Path, files: Path, run: Path) -> str:
    """Return what is missing, differs or is there twice in the record of a finished run, or "".

    Args:
        database: SQLite file of MLflow.
        files: Folder somewhere below which MLflow keeps the files of runs.
        run: The run's folder.
    """
    if not database.is_file():
        return "there is no store"
    facts = json.loads((run / "run.json").read_text())
    with closing(sqlite3.connect(database)) as connection:
        found = connection.execute(
            "SELECT r.run_uuid, r.status, r.start_time, r.end_time FROM runs r JOIN tags t USING (run_uuid) "
            "WHERE t.key = 'run_key' AND t.value = ?",
            (facts["key"],),
        ).fetchall()
        if len(found) != 1:
            return f"the store has {len(found)} runs of {run.name}"
        [(run_id, *ends)] = found
        if ends != ["FINISHED", facts["started"], facts["ended"]]:
            return f"status and times are {ends}, in run.json {facts['started']} and {facts['ended']}"
        return (
            _points_problem(connection, run_id, run)
            or _texts_problem(connection, run_id, run, facts)
            or _files_problem(files, run_id, run)
        )


def _points_problem(connection: sqlite3.Connection, run_id: str, run: Path) -> str:
    rows = connection.execute("SELECT key, step, value FROM metrics WHERE run_uuid = ?", (run_id,)).fetchall()
    recorded = Counter(row for row in rows if not row[0].startswith("system/"))
    expected = Counter(points_of(run))
    if missing := expected - recorded:
        return f"{missing.total()} of {expected.total()} metric points are missing, such as {min(missing)}"
    if surplus := recorded - expected:
        return f"{surplus.total()} metric points are too many, such as {min(surplus)}"
    of_system = Counter((key, step) for key, step, _ in rows if key.startswith("system/"))
    doubled = [point for point, number in of_system.items() if number > 1]
    return f"measurements of the system are recorded twice, such as {doubled[0]}" if doubled else ""


def points_of(run: Path) -> list[Point]:
    """Return the metric points that `history.csv` and `scores.json` of a finished run call for."""
    with (run / "history.csv").open(newline="") as file:
        epochs = list(csv.DictReader(file))
    points = [(key, int(epoch["epoch"]), float(text)) for epoch in epochs for key, text in epoch.items() if text]
    scores = json.loads((run / "scores.json").read_text())
    final = {key: value for key, value in scores.items() if ("/" in key or key in _TIMES) and key not in epochs[0]}
    last = int(epochs[-1]["epoch"])
    return [point for point in points if point[0] != "epoch"] + [(key, last, final[key]) for key in final]


def _texts_problem(connection: sqlite3.Connection, run_id: str, run: Path, facts: dict[str, dict[str, str]]) -> str:
    """Return what is wrong with parameters, tags, the description and the data set."""
    parameters, tags = (
        dict(connection.execute(f"SELECT key, value FROM {table} WHERE run_uuid = ?", (run_id,)).fetchall())
        for table in ("params", "tags")
    )
    for what, expected, recorded in (
        ("parameter", parameters_of(read_settings(run)), parameters),
        ("tag", facts["tags"], tags),
    ):
        wrong = [key for key, value in expected.items() if recorded.get(key) != value]
        if wrong:
            return f"the {what} {wrong[0]} is {recorded.get(wrong[0])!r}, not {expected[wrong[0]]!r}"
    if not tags.get("mlflow.note.content", "").startswith("Test accuracy"):
        return f"the description is {tags.get('mlflow.note.content')!r}"
    data = connection.execute(
        "SELECT d.name FROM datasets d JOIN inputs i ON i.source_id = d.dataset_uuid WHERE i.destination_id = ?",
        (run_id,),
    ).fetchall()
    return "" if data == [(facts["data"]["name"],)] else f"its data sets are {data}"


def _files_problem(files: Path, run_id: str, run: Path) -> str:
    places = list(files.rglob(f"{run_id}/artifacts"))
    if len(places) != 1:
        return f"there are {len(places)} folders of its files"
    for name, place in ARTIFACTS.items():
        original, kept = run / name, places[0] / place / name
        if original.is_file() and (not kept.is_file() or kept.read_bytes() != original.read_bytes()):
            return f"the file {name} {'differs' if kept.is_file() else 'is missing'}"
    return ""
