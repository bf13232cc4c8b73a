"""Validation of plain values against a pydantic model, with an error message for each key."""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from cifar10.config.schema import TYPED
from cifar10.suggest import nearest

Model = TypeVar("Model", bound=BaseModel)

_PLAIN_WORDS = {
    "a valid integer": "a whole number",
    "a valid boolean": "true or false",
    "a valid array": "a list, as in [1,2]",
    "an object": "a mapping, as in {key: 1}",
    "a valid ": "a ",
    " after validation": "",
}
_NOT_PLAIN = re.compile(r"\s*|[-+.\d][-+.\de]*|true|false|null", re.IGNORECASE)  # a string only in quotes
_LONGEST_VALUE = 60  # characters of a wrong value in a message


class Problem(NamedTuple):
    """A validation error: the dotted key of a setting, empty for the whole configuration, and a message."""

    key: str
    message: str
    meant: str | None = None
    """The known key nearest to a misspelt one."""
    unquoted: bool = False
    """Whether a string is needed, and the value would be one in quotes."""

    def within(self, section: str) -> "Problem":
        """Return the same problem, its keys prefixed with `section`."""
        key, meant = f"{section}.{self.key}".rstrip("."), self.meant and f"{section}.{self.meant}"
        return self._replace(key=key, meant=meant)

    def __str__(self) -> str:
        text = f"{_on_one_line(self.key)}: {self.message}" if self.key else self.message
        return f"{text}; did you mean {self.meant}?" if self.meant else text


def validate(model: type[Model], values: Mapping[str, Any], is_typed: bool = False) -> Model:
    """Return `values` as `model`, converted like JSON: a list to a tuple, 1 to 1.0; "1" and true are not numbers.

    Args:
        is_typed: The values are from the user, so the rules from which older checkpoints are exempt apply too.

    Raises:
        pydantic.ValidationError: see `problems_of`.
    """
    return model.model_validate_json(json.dumps(values), strict=True, context=TYPED if is_typed else None)


def problems_of(error: ValidationError, values: Mapping[str, Any], known: Iterable[str]) -> list[Problem]:
    """Return one problem for each key in `error`.

    Args:
        values: The validated values.
        known: All dotted keys that exist, for the nearest one to a misspelt key.
    """
    by_key: dict[str, list[ErrorDetails]] = {}
    for details in error.errors(include_url=False):
        by_key.setdefault(_key(details, values), []).append(details)
    unknown = {key for key, found in by_key.items() if any(details["type"] == "extra_forbidden" for details in found)}
    inside_unknown = tuple(f"{key}." for key in unknown)
    known = [key for key in known if not f"{key}.".startswith(inside_unknown)] if unknown else []
    problems: list[Problem] = []
    for key, found in by_key.items():
        message = " or ".join(dict.fromkeys(map(_message, found)))  # members of a union may have the same message
        meant = nearest(key, known) if key in unknown else None
        problems.append(Problem(key, message, meant, unquoted=any(map(_lacks_quotes, found))))
    return problems


def shown(value: Any) -> str:
    """Return `value` as one line of YAML, cut if long."""
    is_plain = isinstance(value, str) and not _NOT_PLAIN.fullmatch(value)
    return _on_one_line(value if is_plain else json.dumps(value, ensure_ascii=False, default=str))


def _on_one_line(text: str) -> str:
    """Return `text` cut if long, with control characters and lone surrogates escaped."""
    text = text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 3] + "..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _lacks_quotes(details: ErrorDetails) -> bool:
    return details["type"] == "string_type" and isinstance(details["input"], int | float)


def _key(details: ErrorDetails, values: Any) -> str:
    """Return the dotted path of the error, without the names that pydantic adds for members of a union."""
    parts: list[str] = []
    for step in details["loc"]:
        if step in (values if isinstance(values, dict) else range(len(values)) if isinstance(values, list) else ()):
            values = values[step]
        elif details["type"] != "missing" or step != details["loc"][-1]:
            continue
        parts.append(str(step))
    return ".".join(parts)


def _message(details: ErrorDetails) -> str:
    kind, text = details["type"], details["msg"]
    if kind == "extra_forbidden":
        return "there is no such setting"
    if kind == "missing":
        return "is missing"
    if kind in ("value_error", "assertion_error"):
        return text.partition(", ")[2]
    if _lacks_quotes(details):
        return f"must be a string, as {shown(details['input'])} is only in quotes"
    text = re.sub(r"^\w+ should ", "must ", text)
    for technical, plain in _PLAIN_WORDS.items():
        text = text.replace(technical, plain)
    return text if ", not " in text else f"{text}, not {shown(details['input'])}"
