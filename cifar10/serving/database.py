"""SQLite files of the serving layer, which several processes may write at the same time.

Each use opens the file for one transaction. A committed transaction survives a killed process; others are rolled back.
Files are on a local disk: SQLite's write-ahead log does not work over a network.
"""

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from cifar10.errors import UserError, first_line

_LOCKED_SECONDS = 10.0
_CORRUPT = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT)
_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


class DatabaseError(UserError):
    """A file cannot be opened, read or written; the message says what to do."""


@dataclass(frozen=True)
class Layout:
    """What a file holds."""

    content: str
    """For messages, in the plural: corrections."""
    application_id: int
    """In the header of the file: which program it belongs to."""
    version: int
    """At least 1; raised if the tables change."""
    tables: str
    """One statement of SQL that makes the table."""
    is_durable: bool
    """Whether a transaction is on disk when it ends; otherwise a power cut loses the last ones."""
    most_bytes: int
    """Of the file."""


@contextmanager
def writing(path: Path, layout: Layout) -> Iterator[sqlite3.Connection]:
    """Open a file for one transaction, which is kept if the block ends without an exception.

    The file and its folder are made if they are missing. Other writers wait.

    Raises:
        DatabaseError: It is damaged, of another program or of a newer version, locked for 10 s, or cannot be written.
    """
    with _told(path, layout):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _connected(path, "rwc") as connection:
            _use_log(connection)
            connection.execute(f"PRAGMA synchronous = {'FULL' if layout.is_durable else 'NORMAL'}")
            connection.execute(f"PRAGMA max_page_count = {layout.most_bytes // _page_size(connection)}")
            connection.execute("BEGIN IMMEDIATE")
            try:
                _require_layout(connection, path, layout, make=True)
                yield connection
            except BaseException:
                if connection.in_transaction:  # on a full disk, SQLite has ended it
                    connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")


@contextmanager
def reading(path: Path, layout: Layout) -> Iterator[sqlite3.Connection]:
    """Open a file to read one state of it.

    Raises:
        DatabaseError: There is none, or it is damaged, of another program or of a newer version.
    """
    if path.exists() and not path.is_file():
        raise DatabaseError(f"{path} cannot be read: it is a folder or a device; name a file of {layout.content}")
    if not path.exists():
        raise DatabaseError(f"there is no file {path} with {layout.content} yet")
    with _told(path, layout), _connected(path, "rw" if _is_writable(path) else "ro") as connection:
        connection.execute("BEGIN")
        _require_layout(connection, path, layout, make=False)
        yield connection


@contextmanager
def _connected(path: Path, mode: str) -> Iterator[sqlite3.Connection]:
    address = f"{path.absolute().as_uri()}?mode={mode}"
    with closing(sqlite3.connect(address, uri=True, timeout=_LOCKED_SECONDS, isolation_level=None)) as connection:
        yield connection


@contextmanager
def _told(path: Path, layout: Layout) -> Iterator[None]:
    """Raise a DatabaseError in place of those of SQLite and of the operating system."""
    try:
        yield
    except sqlite3.Error as error:
        raise DatabaseError(f"{path}: {_advice(error, path, layout)}") from error
    except OSError as error:
        raise DatabaseError(f"{path} cannot be written: {error.strerror or error}") from error


def _advice(error: sqlite3.Error, path: Path, layout: Layout) -> str:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in _CORRUPT:
        return (
            f"it is no file of {layout.content}, or is damaged ({first_line(error)}); if its name is right, move it "
            f"away, together with {path.name}-wal if there is one, and a new file is begun; sqlite3 {path} .recover "
            "shows what can still be read of it"
        )
    if code in _BUSY:
        return "another program has locked it; end that, or wait"
    if code == sqlite3.SQLITE_FULL:
        return (
            f"no more {layout.content} can be added, since the disk is full or the file has reached its limit of "
            f"{layout.most_bytes / 2**30:.0f} GB; make room, or move the file away"
        )
    if code == sqlite3.SQLITE_IOERR:
        return f"{layout.content} cannot be read or written there ({error}); make room on the disk of {path.parent}"
    return f"{layout.content} cannot be read or written there ({error})"


def _use_log(connection: sqlite3.Connection) -> None:
    """Switch to the write-ahead log, so that readers and writers do not wait for each other."""
    if connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal":
        return
    deadline = time.monotonic() + _LOCKED_SECONDS
    while True:  # SQLite does not wait here if several processes make the file at once
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in _BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _require_layout(connection: sqlite3.Connection, path: Path, layout: Layout, make: bool) -> None:
    application_id = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if application_id == layout.application_id and version == layout.version:
        return
    if application_id == layout.application_id:
        raise DatabaseError(
            f"{path} holds {layout.content} in version {version}, and this program knows version {layout.version}; "
            "update the program, or name another file"
        )
    is_empty = not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if application_id or version or not is_empty:
        raise DatabaseError(f"{path} is a database of another kind; name another file for {layout.content}")
    if make:
        connection.execute(layout.tables)
        connection.execute(f"PRAGMA application_id = {layout.application_id}")
        connection.execute(f"PRAGMA user_version = {layout.version}")
    else:
        raise DatabaseError(f"{path} is empty: it has no {layout.content} yet")


def _page_size(connection: sqlite3.Connection) -> int:
    size: int = connection.execute("PRAGMA page_size").fetchone()[0]
    return size


def _is_writable(path: Path) -> bool:
    return os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)
