"""Command lines in messages. Each works as printed in a POSIX shell, in the current folder."""

import os
import re
import shlex
import sys
from typing import Any

from cifar10.config.conf_folder import groups, top_settings

_PLAIN = re.compile(r"[A-Za-z_./][\w./-]*", re.ASCII)  # what Hydra reads as a string without quotes
_NO_STRING = ("null", "true", "false", "inf", "nan")


def _program() -> str:
    """Return the interpreter and the script, as they were typed."""
    if not sys.argv or os.path.basename(sys.argv[0]) != "commands.py":
        return "python commands.py"
    words = sys.orig_argv[: len(sys.orig_argv) - len(sys.argv) + 1]
    if words[-1:] != sys.argv[:1]:  # in a process that multiprocessing has started
        words = [sys.executable, sys.argv[0]]
    return shlex.join(words)


PROGRAM = os.environ.get("CIFAR10_PROGRAM", "").strip() or _program()
"""First words of every command line in a message. CIFAR10_PROGRAM replaces them, as from outside a container."""


def command_line(command: str, *words: str, **named: Any) -> str:
    """Return the line to type, quoted for the shell.

    Args:
        command: One of `commands.py`.
        words: Its arguments, not quoted.
        named: Flags, and settings of the top level such as `models_dir`. None, and a setting with the value that it has
            in `conf/config.yaml`, is left out.
    """
    defaults = top_settings()
    written = [command, *words]
    for name, value in named.items():
        if name in defaults or name in groups():
            written += [] if defaults.get(name) == value else [setting(name, value)]
        elif value is not None:
            written.append(f"--{name}={value}")
    return f"{PROGRAM} {shlex.join(written)}"


def setting(key: str, value: Any) -> str:
    """Return KEY=VALUE as Hydra reads it; not quoted for the shell."""
    return f"{key}={_in_hydras_grammar(value)}"


def _in_hydras_grammar(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_in_hydras_grammar, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{_in_hydras_grammar(item)}' for key, item in value.items())}}}"
    if not isinstance(value, str) or (_PLAIN.fullmatch(value) and value.lower() not in _NO_STRING):
        return str(value)
    return quoted(value)


def quoted(value: str) -> str:
    """Return `value` in quotes, so that Hydra reads it as a string."""
    from hydra.core.override_parser.types import Quote, QuotedString

    return QuotedString(value.replace("${", r"\${"), Quote.double).with_quotes()
