"""Expand `~` and `~user` in paths, which a shell does not do after `--flag=` and `key=`.

They are replaced once, where a path is read: for flags in `flags.py`, for settings in `compose.py`.
"""

import os

_SQLITE = "sqlite:///"


def expanded(path: str) -> str:
    """Return `path` with `~` or `~user` at its beginning replaced by that user's home folder.

    An existing file or folder named `~user` is not replaced.

    Raises:
        ValueError: No home folder is known.
    """
    user = path.partition("/")[0]
    if not path.startswith("~") or (user != "~" and os.path.lexists(user)):
        return path
    home = os.path.expanduser(user) if user != "~" or os.environ.get("HOME") != "" else ""
    if os.path.isabs(home):
        return home.rstrip("/") + path[len(user) :] or "/"
    raise ValueError(f"no home folder is known for {user}; a name that begins with ~ is written ./{path}")


def expanded_uri(uri: str) -> str:
    """Return `uri`, in a SQLite one the path of the file expanded.

    Raises:
        ValueError: see `expanded`.
    """
    return _SQLITE + expanded(uri.removeprefix(_SQLITE)) if uri.startswith(_SQLITE) else uri
