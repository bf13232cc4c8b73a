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
from typing import Any, NamedTuple

from cifar10 import __version__
from cifar10.cli.arguments import canonical
from cifar10.cli.command_help import command_help, overview
from cifar10.cli.flags import Command, Commands, flags_of, shortened
from cifar10.config.advice import PROGRAM
from cifar10.errors import UsageError, UserError
from cifar10.packages import missing_package
from cifar10.suggest import did_you_mean
from cifar10.system.lazy_compiler import put_off_compiler
from cifar10.system.optional_packages import import_torchmetrics_alone
from cifar10.system.shortage import told_if_short
from cifar10.system.signals import Stopped, listening, stopped_by
from cifar10.system.streams import STDOUT_NAME, restart_in_utf8, secure_standard_streams
from cifar10.system.waiting_threads import let_waiting_threads_sleep

_HELP = ("-h", "--help", "-help", "--h")
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class Task(NamedTuple):
    """A command and its parsed arguments, not yet run."""

    command: Command
    arguments: tuple[Any, ...]
    flags: dict[str, Any]


def main(commands: Commands, description: str, words: Sequence[str] | None = None) -> int:
    """Run the command that `words` name, by default the program's own arguments, and return the exit code."""
    if words is None:
        restart_in_utf8()
        os.environ["MPLBACKEND"] = "agg"  # no windows; a notebook's backend may not be installed here
        let_waiting_threads_sleep()
        import_torchmetrics_alone()
        put_off_compiler()
    typed = list(sys.argv[1:] if words is None else words)
    secure_standard_streams()
    try:
        with listening():
            exit_code = _run(commands, description, typed)
            if sys.stdout is not None:  # the caller may have closed it
                sys.stdout.flush()
            return exit_code
    except UserError as error:
        for problem in getattr(error, "problems", [str(error)]):
            print(f"error: {_inert(problem, typed)}", file=sys.stderr)
        return error.exit_code
    except Stopped as stop:
        print(stop, file=sys.stderr)
        return 128 + stop.number
    except KeyboardInterrupt:  # raised by a library, or before `listening`
        print("interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:  # the reader of stdout, such as `head`, has exited
        return 128 + signal.SIGPIPE
    except OSError as error:
        return _reported(error)
    finally:
        with contextlib.suppress(OSError):  # reported above; Python's last flush would report it a second time
            if sys.stdout is not None:
                sys.stdout.flush()


def _inert(problem: str, typed: Sequence[str]) -> str:
    """Return a message without control characters: names and settings may come from an untrusted file.

    Line breaks in what was typed are escaped too; those of the message itself stay.
    """
    parts = [part for word in typed for part in (word, word.partition("=")[2]) if "\n" in part and part.strip()]
    for part in parts:
        problem = problem.replace(part, part.replace("\n", "\\n"))
    return re.sub(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", lambda found: ascii(found[0])[1:-1], problem)


def _reported(error: OSError) -> int:
    """Print what to do about full disks and too many files, and return the exit code; other errors are raised again."""
    if "temporary director" in str(error):  # of tempfile and of matplotlib; there is no other sign
        print("error: no folder for temporary files can be written; name one: TMPDIR=DIR", file=sys.stderr)
    elif error.errno in (errno.EMFILE, errno.ENFILE):
        print("error: the system allows no more open files; allow more: ulimit -n 1024", file=sys.stderr)
    elif error.errno in _DISK_FULL or error.filename == STDOUT_NAME:
        print(f"error: {error.strerror}: {error.filename or STDOUT_NAME} was not written whole", file=sys.stderr)
    else:
        raise error
    return UserError.exit_code


def _run(commands: Commands, description: str, words: list[str]) -> int:
    """Print the help or run the command; an error after a signal is reported as that signal."""
    try:
        with told_if_short("give this process more: ulimit -v and -u, or the limits of its container or job"):
            for word in words:
                if word.endswith("\r"):  # never intended, and invisible on a terminal
                    raise UsageError(
                        f"{shortened(word.rstrip())!r} is followed by a carriage return: the script with this line has "
                        "Windows line ends; remove them with sed -i 's/\\r$//' SCRIPT"
                    )
            text = _help_text(commands, description, words)
            if text is not None:
                print(text)
                return 0
            task = parse(commands, words)
            return task.command(*task.arguments, **task.flags) or 0
    except Exception as error:
        if stop := stopped_by():
            raise stop from None
        if isinstance(error, ModuleNotFoundError) and (problem := missing_package(error)):
            raise UserError(f"this {problem}") from error
        raise


def parse(commands: Commands, words: Sequence[str]) -> Task:
    """Return the command that `words` name, with its arguments.

    Raises:
        UsageError: There is no such command, or its arguments are wrong.
    """
    name = _command_name(commands, words[0])
    try:
        return _bind_with_fire(commands[name], canonical(name, words[1:], commands))
    except UsageError as error:
        problem = str(error).replace("\n", "\\n")  # of the words
        raise UsageError(f"{problem}\nhelp: {PROGRAM} {name} --help") from None


def _bind_with_fire(command: Command, words: list[str]) -> Task:
    """Return `words` bound by Fire to the signature of `command`; Fire calls a placeholder that records them."""
    import fire

    @functools.wraps(command)
    def record(*arguments: Any, **flags: Any) -> Task:
        return Task(command, arguments, flags)

    parsers = {name: flag.parse for name, flag in flags_of(command).items()}
    record = fire.decorators.SetParseFns(**parsers)(fire.decorators.SetParseFn(str)(record))
    task = fire.Fire(record, command=words, name=PROGRAM, serialize=lambda task: None)
    assert isinstance(task, Task), "`canonical` returns only words that Fire accepts"
    return task


def _help_text(commands: Commands, description: str, words: list[str]) -> str | None:
    """Return the help or version that `words` request, None if they request neither."""
    if words == ["--version"]:
        return f"cifar10 {__version__}"
    before_end = words[: words.index("--")] if "--" in words else words
    if words and words[0] != "help" and words[1:] != ["help"] and not any(word in _HELP for word in before_end):
        return None
    name = next((word for word in words if word != "help" and word not in _HELP), None)
    if name is None:
        return overview(description, commands)
    return command_help(name, commands[_command_name(commands, name)])


def _command_name(commands: Commands, word: str) -> str:
    """Return `word` if it is a command; else raise UsageError with the nearest one."""
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
