"""The database of studies: SQLite by default, or any other one that SQLAlchemy knows."""

import logging
import sqlite3
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import optuna
from filelock import FileLock, Timeout
from optuna.exceptions import OptunaError
from optuna.storages import RDBStorage
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from cifar10.config.mlflow_uri import absolute_uri, database_path, shown_uri
from cifar10.errors import UsageError, UserError, first_line

HEARTBEAT_SECONDS = 20
GRACE_SECONDS = 120
"""A trial without a heartbeat for this long has lost its process, wherever that was."""

_PROBE_SECONDS = 3.0
_LOCKED_SECONDS = 60.0  # that a statement, or a claim, waits for other processes
_PACKAGES = {"psycopg2": "psycopg2-binary", "psycopg": "'psycopg[binary]'", "MySQLdb": "mysqlclient"}
"""Name of a module -> name of the package that has it, where they differ."""
_EXAMPLE = "sqlite:///study.db or postgresql://USER@HOST/DATABASE"


def connect(url: str) -> RDBStorage:
    """Return the database at `url`; a SQLite file is created, and its folder.

    Raises:
        UsageError: It is no address of a database, or the package for it is missing.
        UserError: It cannot be read and written.
    """
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    path = _file(url)
    if path is not None:
        _probe(path)
    connect_args = {"timeout": _LOCKED_SECONDS} if path is not None else {}
    try:
        with locked(url):
            return RDBStorage(
                absolute_uri(url) if path is not None else url,
                engine_kwargs={"connect_args": connect_args, "pool_pre_ping": True},
                heartbeat_interval=HEARTBEAT_SECONDS,
                grace_period=GRACE_SECONDS,
            )
    except ImportError as error:
        module = getattr(error.__cause__, "name", None) or "its driver"
        line = f"python -m pip install {_PACKAGES.get(module, module)}"
        raise UsageError(f"--storage={shown_uri(url)} needs the package {module}, which is missing: {line}") from None
    except (ArgumentError, NoSuchModuleError) as error:
        raise UsageError(f"--storage={shown_uri(url)} is no database that can be used: {first_line(error)}") from None
    except (OptunaError, SQLAlchemyError, RuntimeError, UnicodeDecodeError) as error:
        if path is not None and (isinstance(error, UnicodeDecodeError) or "malformed" in _reason(error)):
            raise _damaged(path, error) from None
        raise UserError(f"--storage={shown_uri(url)} cannot be used: {_reason(error)}") from None


def _file(url: str) -> Path | None:
    """Return the file of a SQLite database; None for another one."""
    if "://" not in url:
        raise UsageError(
            f"--storage={url} is no address of a database; write sqlite:///{url.lstrip('/') or 'study.db'}"
        )
    path = database_path(url)
    if path is None and url.startswith("sqlite:"):
        raise UsageError(f"--storage={url} names no file, so it could not be resumed; write {_EXAMPLE}")
    return path


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(
        f"the study's database {path} is damaged ({_reason(error)}); restore a copy, or begin anew: --study=NAME"
    )


def _probe(path: Path) -> None:
    """Raise UserError if a SQLite file cannot be created, read and written within three seconds."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(path, timeout=_PROBE_SECONDS, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"{path.parent} cannot be written ({reason}); choose another: --storage=sqlite:///FILE"
        ) from None
    except sqlite3.Error as error:
        if "locked" in str(error):
            raise UserError(f"the study's database {path} is locked by another program; end it, or wait") from None
        if "malformed" in str(error):
            raise _damaged(path, error) from None
        what = "is no database" if "not a database" in str(error) else "cannot be written"
        raise UserError(f"{path} {what} ({error}); choose another: --storage=sqlite:///FILE") from None


@contextmanager
def locked(url: str) -> Iterator[None]:
    """Keep other processes from claiming trials at the same time.

    SQLite lets two transactions read before one of them writes. Other databases lock the rows themselves.
    """
    path = database_path(url)
    if path is None:
        yield
        return
    try:
        with FileLock(f"{path.absolute()}.lock", timeout=_LOCKED_SECONDS, mode=0o666):
            yield
    except Timeout:
        raise UserError(f"{path}.lock is held by another process for more than {_LOCKED_SECONDS:.0f} s") from None
    except OSError as error:
        raise UserError(f"{path}.lock cannot be locked: {error.strerror or error}") from None


@contextmanager
def told_if_lost(url: str, go_on: str) -> Iterator[None]:
    """Convert errors of the database in this block.

    Args:
        url: Of the database.
        go_on: The line to type when it works again.

    Raises:
        UserError: The database failed.
    """
    try:
        yield
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        path = database_path(url)
        if path is not None and (not path.is_file() or "no such table" in _reason(error)):  # SQLite makes an empty one
            raise UserError(
                f"the study's database {path} has been deleted; what was trained is kept in {path.parent}; restore the "
                "file and go on, or begin anew: --study=NAME"
            ) from error
        reason = f"the study's database {shown_uri(url)} failed: {_reason(error)}"
        raise UserError(f"{reason}; what was trained is kept; when it works again: {go_on}") from error


def _reason(error: BaseException) -> str:
    """Return the message of the database itself, without a password."""
    cause = error.__cause__ if isinstance(error, optuna.exceptions.StorageInternalError) else error
    original = getattr(cause, "orig", None)
    return shown_uri(first_line(original or cause or error))[:300]
