"""Addresses of MLflow stores: validation, and display without passwords."""

import os
import re
from pathlib import Path
from urllib.parse import urlsplit

LOCAL_URI = "sqlite:///mlruns/mlflow.db"

_SQLITE = "sqlite:///"
_FORMS = "sqlite:///FILE or http(s)://HOST:PORT"


def default_uri() -> str:
    """Return the store to read from: MLFLOW_TRACKING_URI, or the local one."""
    return os.environ.get("MLFLOW_TRACKING_URI") or LOCAL_URI


def uri_problem(uri: str) -> str | None:
    """Return why `uri` cannot be the address of a store, and the remedy; None if it can. Passwords are left out."""
    source = " (from MLFLOW_TRACKING_URI)" if uri == os.environ.get("MLFLOW_TRACKING_URI") else ""
    if not uri.strip():
        return f"is empty{source}; it must be {_FORMS}"
    if uri.startswith("sqlite:"):
        return None if database_path(uri) else f"{uri}{source} names no file; write {LOCAL_URI}"
    if uri.startswith(("http://", "https://")):
        return _server_problem(uri, source)
    scheme, separator, _ = uri.partition("://")
    if scheme == "file" or uri.startswith("file:") or not (separator or re.fullmatch(r"[\w.-]+:\d+/?", uri)):
        return f"{uri}{source} is a folder, and MLflow keeps no runs in folders since 3.14; write {LOCAL_URI}"
    if not separator:
        return f"{uri}{source} is no address; write http://{uri}"
    return f"{scheme}://...{source} is a kind of store that is not supported; it must be {_FORMS}"


def shown_uri(uri: str) -> str:
    """Return `uri` without user name and password."""
    return re.sub(r"(?<=://)[^/?#]*@", "", uri)


def database_path(uri: str) -> Path | None:
    """Return the file of a SQLite store; None for other stores."""
    name = uri.removeprefix(_SQLITE).partition("?")[0]
    if not uri.startswith(_SQLITE) or name in ("", "/", ":memory:"):
        return None
    return Path(name).expanduser()


def absolute_uri(uri: str) -> str:
    """Return `uri` with an absolute path, independent of the working folder."""
    path = database_path(uri)
    if path is None:
        return uri.rstrip("/")
    query = uri.partition("?")[1:]
    quoted = str(path.absolute()).replace("%", "%25").replace("?", "%3F")  # SQLAlchemy decodes what is in an address
    return f"{_SQLITE}{quoted}{''.join(query)}"


def _server_problem(uri: str, source: str) -> str | None:
    shown = shown_uri(uri)
    try:
        parts = urlsplit(uri)
        host, _port, user = parts.hostname, parts.port, parts.username
    except ValueError:
        return f"{shown}{source} is no address; it must be {_FORMS}"
    if not host or re.search(r"\s", uri):
        return f"{shown}{source} names no host; it must be http(s)://HOST:PORT"
    if user is not None:
        return (
            f"{shown}{source} was given with a user name or password, which would be kept in checkpoints; "
            "leave it out and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )
    return None
