"""Plain values from YAML against a pydantic model: what is wrong, key by key, in words for the person who typed it."""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from cifar10.nearest import did_you_mean

Model = TypeVar("Model", bound=BaseModel)

_LONGEST_VALUE = 60  # characters of a refused value that are repeated to its author


class Problem(NamedTuple):
    """One thing that is wrong: a dotted key, empty for the whole, and what it must be instead."""

    key: str
    message: str

    def within(self, section: str) -> "Problem":
        """Return the same problem, its key seen from outside `section`."""
        return Problem(".".join(part for part in (section, self.key) if part), self.message)

    def __str__(self) -> str:
        return f"{self.key}: {self.message}" if self.key else self.message


def validate(model: type[Model], values: Mapping[str, Any]) -> Model:
    """Return `values` as `model`, as JSON is read: a list may be a tuple, 1 may be 1.0, but "1" and true are no numbers.

    Raises:
        pydantic.ValidationError: see `problems_of`.
    """
    return model.model_validate_json(json.dumps(values), strict=True)


def problems_of(error: ValidationError, values: Mapping[str, Any], known: Iterable[str]) -> list[Problem]:
    """Return one problem for each key that `error` complains about.

    Args:
        values: What was validated.
        known: All keys there are, dotted, for the nearest one to a misspelt key.
    """
    known = list(known)
    messages: dict[str, list[str]] = {}
    for details in error.errors(include_url=False):
        key = _key(details, values)
        message = _message(details, key, known)
        messages.setdefault(key, [])
        if message not in messages[key]:
            messages[key].append(message)
    return [Problem(key, " or ".join(parts)) for key, parts in messages.items()]


def shown(value: Any) -> str:
    """Return `value` as it would be written in YAML on one line, shortened if long."""
    text = value if isinstance(value, str) and value.strip() else json.dumps(value, ensure_ascii=False, default=str)
    text = text.replace("\n", " ")
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 3] + "..."


def _key(details: ErrorDetails, values: Any) -> str:
    """Return the dotted path of what is wrong, without the names pydantic adds for the members of a union."""
    parts: list[str] = []
    for step in details["loc"]:
        inside = isinstance(values, dict) and step in values
        inside = inside or (isinstance(values, list) and isinstance(step, int) and step < len(values))
        if inside:
            values = values[step]
        elif details["type"] != "missing" or step != details["loc"][-1]:
            continue
        parts.append(str(step))
    return ".".join(parts)


def _message(details: ErrorDetails, key: str, known: list[str]) -> str:
    kind, text = details["type"], details["msg"]
    if kind == "extra_forbidden":
        return "there is no such setting" + did_you_mean(key, known)
    if kind == "missing":
        return "is missing"
    if kind in ("value_error", "assertion_error"):
        return text.partition(", ")[2]
    text = re.sub(r"^\w+ should ", "must ", text)
    text = text.replace("a valid integer", "a whole number").replace("a valid ", "a ")
    return text if ", not " in text else f"{text}, not {shown(details['input'])}"
