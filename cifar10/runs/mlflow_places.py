"""Artifact locations of a SQLite store: by default in a folder beside the database.

MLflow notes the absolute place of an experiment's files, and of each run's. Where a store was moved or copied, or is
configured anew, these notes are mended when it is opened: else new files would go to the old place.
"""

import logging
import sqlite3
import urllib.request
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

log = logging.getLogger(__name__)

_LOCKED_SECONDS = 3.0
_PLACES = (  # every column of MLflow's database that holds the place of a run's files
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def artifacts_folder(database: Path, artifacts: str | None = None) -> Path:
    """Return the absolute folder for the files of a SQLite store: `artifacts`, or by default the one beside it."""
    return (database.parent / "artifacts" if artifacts is None else Path(artifacts).expanduser()).absolute()


def mend_places(database: Path, artifacts: Path, experiment: str | None = None) -> None:
    """Let a database that was moved, copied or configured anew name the places where files are now.

    New files of `experiment` go to `artifacts`. A run whose files are found there is said to have them there; others
    keep the place that is noted. What was changed is logged.
    """
    with closing(sqlite3.connect(database, timeout=_LOCKED_SECONDS)) as connection, connection:
        rows = connection.execute("SELECT experiment_id, name, artifact_location FROM experiments").fetchall()
        for number, name, location in rows:
            old = _local_folder(location)
            if old is None or old == artifacts:
                continue
            num_moved = _mend_runs(connection, location, artifacts)
            if name == experiment or (num_moved and not old.exists()):
                values = (artifacts.as_uri(), number)
                connection.execute("UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?", values)
                log.warning("MLflow's store was made for files in %s; they are now kept in %s", old, artifacts)


def _mend_runs(connection: sqlite3.Connection, location: str, artifacts: Path) -> int:
    """Rewrite every place below `location` whose files are in `artifacts` now, and return their number."""
    num_moved = 0
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    for table, column in _PLACES:
        if table not in tables:
            continue
        columns = {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
        if column not in columns:
            continue
        places = connection.execute(f"SELECT DISTINCT {column} FROM {table}").fetchall()
        for (place,) in places:
            if not isinstance(place, str) or not place.startswith(location.rstrip("/") + "/"):
                continue
            moved = artifacts.as_uri() + place[len(location.rstrip("/")) :]
            folder = _local_folder(moved)
            if folder is not None and folder.exists():
                connection.execute(f"UPDATE {table} SET {column} = ? WHERE {column} = ?", (moved, place))
                num_moved += 1
    return num_moved


def _local_folder(location: str | None) -> Path | None:
    """Return the folder that a place of MLflow means, None if it is on a server or in a cloud."""
    if not location or urlsplit(location).scheme not in ("", "file"):
        return None
    return Path(urllib.request.url2pathname(urlsplit(location).path))
