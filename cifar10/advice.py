"""The lines that the program advises to type."""

import shlex
from typing import Any


def command_line(command: str, *words: str, **named: Any) -> str:
    """Return the line to type, quoted for the shell."""
    written = [command, *words]
    for name, value in named.items():
        if name == "models_dir":
            written += [] if value == "models" else [f"models_dir={value}"]
        elif value is not None:
            written.append(f"--{name}={value}")
    return f"python commands.py {shlex.join(written)}"
