"""Artifact locations of a SQLite store: by default in a folder beside the database.

MLflow stores the absolute location of the files of each experiment and run. If a store was moved, copied or configured
differently, these locations are corrected when it is opened, so that new files do not go to the old location.
"""

import logging
import sqlite3
import urllib.request
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

log = logging.getLogger(__name__)

_LOCKED_SECONDS = 3.0
_PLACES = (  # the columns of MLflow's database with locations of a run's files
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def artifacts_folder(database: Path, artifacts: str | None = None) -> Path:
    """Return the absolute folder for the files of a SQLite store: `artifacts`, or by default the one beside it."""
    return (database.parent / "artifacts" if artifacts is None else Path(artifacts).expanduser()).absolute()


def mend_places(database: Path, artifacts: Path, experiment: str | None = None) -> None:
    """Correct the artifact locations in a database that was moved, copied or configured differently.

    New files of `experiment` go to `artifacts`. The location of a run's files is changed if they are found there.
    Changes are logged.
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
    """Change every location below `location` whose files are now in `artifacts`, and return the number of changes."""
    num_moved, prefix = 0, location.rstrip("/") + "/"
    for table, column in _PLACES:
        columns = {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}  # empty if there is no table
        if column not in columns:
            continue
        for (place,) in connection.execute(f"SELECT DISTINCT {column} FROM {table}").fetchall():
            if not isinstance(place, str) or not place.startswith(prefix):
                continue
            moved = f"{artifacts.as_uri()}/{place.removeprefix(prefix)}"
            folder = _local_folder(moved)
            if folder is not None and folder.exists():
                connection.execute(f"UPDATE {table} SET {column} = ? WHERE {column} = ?", (moved, place))
                num_moved += 1
    return num_moved


def _local_folder(location: str | None) -> Path | None:
    """Return the folder of an artifact location, None if it is on a server."""
    if not location or urlsplit(location).scheme not in ("", "file"):
        return None
    return Path(urllib.request.url2pathname(urlsplit(location).path))
