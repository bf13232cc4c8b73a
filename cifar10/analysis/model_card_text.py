"""Parts of Markdown for a model card. Names may come from a stranger, so that nothing in them is Markdown or HTML."""

import re
import shlex
from collections.abc import Sequence

from cifar10.data.class_names import printable

Cell = str | None
"""Of a table, in Markdown; None: it is not known."""

_MISSING = "not recorded"
_SPECIAL = re.compile(r"([\\`*_\[\]<>|#&~$!])")


def text(value: str) -> str:
    """Return `value` as plain text."""
    return _SPECIAL.sub(r"\\\1", printable(value))


def code(value: str) -> str:
    """Return `value` as code, or as text if it has characters that code in a table cannot have."""
    plain = printable(value)
    return f"`{plain}`" if plain and not re.search(r"[`|<>&]", plain) else text(value)


def listed(names: Sequence[str]) -> str:
    """Return names as code, with commas."""
    return ", ".join(map(code, names))


def table(head: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """Return a table; what is None is said to be not recorded."""
    lines = [head, ["---"] * len(head), *([_MISSING if cell is None else cell for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def command(name: str, *words: str) -> str:
    """Return a line to type, quoted for a shell."""
    return f"python commands.py {name} {shlex.join(printable(word) for word in words)}"


def shell(*lines: str) -> str:
    """Return lines to type as a block."""
    fence = "```" if not any("```" in line for line in lines) else "````"
    return "\n".join([f"{fence}sh", *lines, fence])


def missing(what: str, line: str) -> str:
    """Return that something was not measured, and the line that measures it."""
    return f"{what} was not measured. To measure it:\n\n{shell(line)}"
