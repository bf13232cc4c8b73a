"""Errors for users: one or two lines that state the value, the rule and the remedy.

`commands.py` prints them without a traceback. Everything else that is raised is a bug and keeps its traceback.
"""


def first_line(error: BaseException) -> str:
    """Return the first line of the message of `error`, or its type if it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


class UserError(ValueError):
    """Something in the world is not as needed: a file, a download, a device."""

    exit_code = 1


class UsageError(UserError):
    """The command itself cannot be meant: a bad value, an unknown name, a missing argument. Nothing was started."""

    exit_code = 2


class CheckpointError(UserError):
    """The checkpoint is not there, or is not what it should be."""
