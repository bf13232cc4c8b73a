"""The help texts: the commands' own docstrings, with a usage line. Plain text."""

import inspect

from cifar10.cli.flags import Command, Commands, flags_of, takes_names, takes_overrides
from cifar10.config.advice import PROGRAM


def overview(description: str, commands: Commands) -> str:
    """Return one line for each command under `description`."""
    width = max(map(len, commands))
    summaries = {name: (inspect.getdoc(command) or "").partition("\n")[0] for name, command in commands.items()}
    lines = [f"  {name:<{width}}  {summary}" for name, summary in summaries.items()]
    more = f"More about one: {PROGRAM} COMMAND --help"
    return "\n".join([description, "", f"usage: {PROGRAM} COMMAND ...", "", *lines, "", more])


def command_help(name: str, command: Command) -> str:
    """Return the usage line and docstring of one command."""
    flags = flags_of(command).values()
    words = [PROGRAM, name, *(f"--{flag.name}={flag.placeholder}" for flag in flags if flag.required)]
    words += ["NAME NAME ..."] if takes_names(command) else ["[KEY=VALUE ...]"] if takes_overrides(command) else []
    words += ["[flags]"] if any(not flag.required for flag in flags) else []
    return f"usage: {' '.join(words)}\n\n{inspect.getdoc(command)}"
