"""A command that reads a file: how the file is made, and what must be true of the command when the file is spoilt."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path


def nothing(folder: Path) -> None:
    """Make no file: the trained run has it."""


@dataclass(frozen=True)
class Reader:
    """A command that reads a file."""

    path: str
    """Of the file, in the working folder; a pattern if its name is a digest."""
    words: list[str]
    """The command."""
    make: Callable[[Path], object] = nothing
    """Makes the file in a folder with a trained run."""
    is_checked: bool = True
    """Whether other content is noticed. If not, what is valid is used: it is the user's text, or has no checksum."""
    is_verdict: bool = False
    """Whether the exit code 1 may be the answer rather than an error."""
    environment: Mapping[str, str] = field(default_factory=dict)
    packages: tuple[str, ...] = ()
    """Imported once, before the commands are forked."""
    works: bool = True
    """Whether the command works with the good file."""
    obstacle: Callable[[], str] = str
    """Returns why the command cannot work on this machine, or ""."""
