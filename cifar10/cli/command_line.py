"""Run a command line: parse it, call the command, and return an exit code.

0 done, 1 failed, 2 misused, 3 done but some inputs failed, 128 + N stopped by signal N: 130 Ctrl-C, 143 SIGTERM.
"""

import contextlib
import errno
import functools
import os
import re
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from cifar10 import __version__
from cifar10.cli.arguments import canonical
from cifar10.cli.command_help import command_help, overview
from cifar10.cli.flags import Command, Commands, flags_of, shortened
from cifar10.config.advice import PROGRAM
from cifar10.errors import UsageError, UserError
from cifar10.suggest import did_you_mean
from cifar10.system.shortage import told_if_short
from cifar10.system.signals import Stopped, listening, stopped_by
from cifar10.system.streams import STDOUT_NAME, restart_in_utf8, secure_standard_streams

_HELP = ("-h", "--help", "-help", "--h")
_BROKEN_PIPE = 141
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Task:
    """A command and its arguments: all understood, nothing begun."""

    command: Command
    arguments: tuple[Any, ...] = ()
    flags: dict[str, Any] = field(default_factory=dict)

    def run(self) -> int | None:
        return self.command(*self.arguments, **self.flags)


def main(commands: Commands, description: str, words: Sequence[str] | None = None) -> int:
    """Do what `words` say, by default the program's own arguments, and return the exit code."""
    if words is None:
        restart_in_utf8()
        os.environ["MPLBACKEND"] = "agg"  # nothing is shown; a notebook's name for it need not be one here
    secure_standard_streams()
    try:
        with listening():
            exit_code = _stoppable(commands, description, list(sys.argv[1:] if words is None else words))
            if sys.stdout is not None:  # a program that calls this can have taken it away
                sys.stdout.flush()
            return exit_code
    except UserError as error:
        _complain(error)
        return error.exit_code
    except Stopped as stop:
        print(stop, file=sys.stderr)
        return 128 + stop.number
    except KeyboardInterrupt:  # raised by a library, or before `listening`
        print("interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:  # the reader of stdout, such as `head`, has gone
        return _BROKEN_PIPE
    except OSError as error:
        if error.errno not in _DISK_FULL and error.filename != STDOUT_NAME:
            raise
        print(f"error: {error.strerror}: {error.filename or STDOUT_NAME} was not written whole", file=sys.stderr)
        return UserError.exit_code
    finally:
        with contextlib.suppress(OSError):  # said already; Python's own last flush would complain a second time
            if sys.stdout is not None:
                sys.stdout.flush()


def _stoppable(commands: Commands, description: str, words: list[str]) -> int:
    """Do what `words` say; if a signal came, let it be what is told, not what it broke on its way up."""
    try:
        with told_if_short("give this process more: ulimit -v and -u, or the limits of its container or job"):
            return _run(commands, description, words)
    except Exception:
        if stop := stopped_by():
            raise stop from None
        raise


def _refuse_windows_line_ends(words: Sequence[str]) -> None:
    """Refuse words that end with a carriage return: it is never meant, and a terminal does not show it."""
    for word in words:
        if word.endswith("\r"):
            raise UsageError(
                f"{shortened(word.rstrip())!r} is followed by a carriage return: the script with this line has "
                "the line ends of Windows; sed -i 's/\\r$//' SCRIPT takes them out"
            )


def _run(commands: Commands, description: str, words: list[str]) -> int:
    _refuse_windows_line_ends(words)
    text = _wanted_text(commands, description, words)
    if text is not None:
        print(text)
        return 0
    return parse(commands, words).run() or 0


def parse(commands: Commands, words: Sequence[str]) -> Task:
    """Return the command that `words` ask for, with its arguments.

    Raises:
        UsageError: There is no such command, or its words cannot be meant.
    """
    name = _command_name(commands, words[0])
    try:
        return _fit_by_fire(commands[name], canonical(name, words[1:], commands))
    except UsageError as error:
        raise UsageError(f"{error}\nhelp: {PROGRAM} {name} --help") from None


def _fit_by_fire(command: Command, words: list[str]) -> Task:
    """Let Fire fit `words` to the signature of `command`; it calls a stand-in that only remembers."""
    import fire

    @functools.wraps(command)
    def remember(*arguments: Any, **flags: Any) -> Task:
        return Task(command, arguments, flags)

    flag_parsers = {name: flag.parse for name, flag in flags_of(command).items()}
    remember = fire.decorators.SetParseFns(**flag_parsers)(fire.decorators.SetParseFn(str)(remember))
    task = fire.Fire(remember, command=words, name=PROGRAM, serialize=lambda task: None)
    assert isinstance(task, Task), "`canonical` leaves nothing that Fire could refuse"
    return task


def _wanted_text(commands: Commands, description: str, words: list[str]) -> str | None:
    """Return the text that `words` ask for if they ask for help or the version, else None."""
    before_end = words[: words.index("--")] if "--" in words else words
    if words == ["--version"]:
        return f"cifar10 {__version__}"
    if not words or words in (["help"], *([word] for word in _HELP)):
        return overview(description, commands)
    if words[0] == "help" or words[1:] == ["help"] or any(word in _HELP for word in before_end):
        name = next((word for word in words if word != "help" and word not in _HELP), None)
        if name is None:
            return overview(description, commands)
        name = _command_name(commands, name)
        return command_help(name, commands[name])
    return None


def _command_name(commands: Commands, word: str) -> str:
    """Return `word` if it is a command.

    Raises:
        UsageError: It is none.
    """
    if word in commands:
        return word
    listed = f"commands: {', '.join(commands)}"
    if word == "version":
        raise UsageError(f"there is no command version; did you mean --version?\n{listed}")
    if word.startswith("-"):
        raise UsageError(f"{word} stands before the command; write {PROGRAM} COMMAND {word} ...\n{listed}")
    if "=" in word:
        raise UsageError(f"{word} stands before the command; write {PROGRAM} train {word}\n{listed}")
    raise UsageError(f"there is no command {word!r}{did_you_mean(word, commands)}\n{listed}")


def _complain(error: UserError) -> None:
    """Write `error` to stderr, each of several problems on a line of its own."""
    for problem in getattr(error, "problems", [str(error)]):
        print(f"error: {_inert(problem)}", file=sys.stderr)


def _inert(text: str) -> str:
    """Return `text` without what a terminal would obey: names and settings may come from a stranger's file."""
    return re.sub(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", lambda found: ascii(found[0])[1:-1], text)
