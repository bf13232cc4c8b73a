"""Errors for users: one or two lines that state the value, the rule and the remedy.

`commands.py` prints them without a traceback. Everything else that is raised is a bug and keeps its traceback.
"""


def first_line(error: BaseException) -> str:
    """Return the first line of the message of `error`, or its type if it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


class UserError(ValueError):
    """Something outside the program is wrong: a file, a download, a device."""

    exit_code = 1


class UsageError(UserError):
    """The command is wrong: a bad value, an unknown name, a missing argument. Nothing was started."""

    exit_code = 2


class CheckpointError(UserError):
    """The checkpoint does not exist or is not valid."""
