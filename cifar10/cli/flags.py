"""The flags of a command, derived from the parameters and type hints of its function.

A hint is str, int (1 or more), bool or a Literal of words, alone or with None for "not given". In a str, a leading `~`
is replaced by the home folder.
"""

import inspect
import re
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Union, get_args, get_origin, get_type_hints

from cifar10.errors import UsageError
from cifar10.suggest import did_you_mean
from cifar10.system.home import expanded

Command = Callable[..., int | None]
"""Returns its exit code; None means 0."""
Commands = Mapping[str, Command]

TRUE = ("true", "yes", "on", "1")
FALSE = ("false", "no", "off", "0")

_LONGEST_SHOWN = 100  # characters of a word in a message


@dataclass(frozen=True)
class Flag:
    """One parameter of a command."""

    name: str
    hint: Any
    """Its type, without None: str, int, bool or a Literal."""
    required: bool
    positional: bool
    """Whether it may be given without its name."""

    @property
    def is_switch(self) -> bool:
        """Whether it is on or off and needs no value."""
        return self.hint is bool

    @property
    def placeholder(self) -> str:
        """The text in place of its value in a usage line."""
        return "N" if self.hint is int else "|".join(get_args(self.hint)) or self.name.upper()

    def parse(self, word: str) -> Any:
        """Return the value of `word`.

        Raises:
            UsageError: It does not fit the type.
        """
        given = f"--{self.name}={shortened(word)}"
        if self.is_switch:
            if word.lower() not in TRUE + FALSE:
                raise UsageError(f"{given}: must be true or false; --{self.name} alone means true")
            return word.lower() in TRUE
        if self.hint is int:
            if not re.fullmatch("[0-9]{1,18}", word) or int(word) == 0:
                raise UsageError(f"{given}: must be a whole number, 1 or more")
            return int(word)
        choices = get_args(self.hint)
        if choices and word not in choices:
            raise UsageError(f"{given}: must be one of {', '.join(choices)}{did_you_mean(word, choices)}")
        if not word:
            raise UsageError(f"--{self.name} is empty; give it a value or leave it out")
        try:
            return word if choices else expanded(word)
        except ValueError as error:
            raise UsageError(f"--{self.name}: {error}") from None


def shortened(word: str) -> str:
    """Return `word` for a message, cut if long."""
    return word if len(word) <= _LONGEST_SHOWN else f"{word[: _LONGEST_SHOWN - 3]}..."


def flags_of(command: Command) -> dict[str, Flag]:
    """Return the flags of `command` by name, in the order of its signature."""
    hints = get_type_hints(command)
    return {
        name: Flag(name, _without_none(hints[name]), p.default is p.empty, p.kind is not p.KEYWORD_ONLY)
        for name, p in inspect.signature(command).parameters.items()
        if p.kind is not p.VAR_POSITIONAL
    }


def takes_overrides(command: Command) -> bool:
    """Return whether any number of overrides may follow `command`."""
    return _words_of(command) == "overrides"


def takes_names(command: Command) -> bool:
    """Return whether any number of names, which are no overrides, may follow `command`."""
    return _words_of(command) not in (None, "overrides")


def _words_of(command: Command) -> str | None:
    """Return the name of the parameter that takes any number of words; None: there is none."""
    parameters = inspect.signature(command).parameters.items()
    return next((name for name, parameter in parameters if parameter.kind is parameter.VAR_POSITIONAL), None)


def _without_none(hint: Any) -> Any:
    is_optional = get_origin(hint) in (Union, types.UnionType)
    return next(member for member in get_args(hint) if member is not type(None)) if is_optional else hint
