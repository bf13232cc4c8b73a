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
_LONGEST_VALUE = 60  # characters of a refused value that are repeated to its author


class Problem(NamedTuple):
    """One thing that is wrong: a dotted key, empty for the whole, and what it must be instead."""

    key: str
    message: str
    meant: str | None = None
    """The known key that a misspelt one is most like."""
    unquoted: bool = False
    """Whether a string is wanted, and what was typed is one only in quotes."""

    def within(self, section: str) -> "Problem":
        """Return the same problem, its keys seen from outside `section`."""
        key, meant = f"{section}.{self.key}".rstrip("."), self.meant and f"{section}.{self.meant}"
        return self._replace(key=key, meant=meant)

    def __str__(self) -> str:
        told = f"{_on_one_line(self.key)}: {self.message}" if self.key else self.message
        return f"{told}; did you mean {self.meant}?" if self.meant else told


def validate(model: type[Model], values: Mapping[str, Any], is_typed: bool = False) -> Model:
    """Return `values` as `model`, as JSON is read: a list may be a tuple, 1 may be 1.0; "1" and true are no numbers.

    Args:
        is_typed: Somebody chooses the values now, so rules hold as well that older checkpoints need not keep.

    Raises:
        pydantic.ValidationError: see `problems_of`.
    """
    return model.model_validate_json(json.dumps(values), strict=True, context=TYPED if is_typed else None)


def problems_of(error: ValidationError, values: Mapping[str, Any], known: Iterable[str]) -> list[Problem]:
    """Return one problem for each key that `error` complains about.

    Args:
        values: What was validated.
        known: All keys there are, dotted, for the nearest one to a misspelt key.
    """
    messages: dict[str, list[str]] = {}
    unknown: set[str] = set()
    unquoted: set[str] = set()
    for details in error.errors(include_url=False):
        key = _key(details, values)
        message = _message(details)
        if details["type"] == "extra_forbidden":
            unknown.add(key)
        if details["type"] == "string_type" and isinstance(details["input"], int | float):
            unquoted.add(key)
        if message not in messages.setdefault(key, []):  # members of a union may complain alike
            messages[key].append(message)
    inside_unknown = tuple(f"{key}." for key in unknown)
    known = [key for key in known if not f"{key}.".startswith(inside_unknown)] if unknown else []
    return [
        Problem(key, " or ".join(parts), nearest(key, known) if key in unknown else None, key in unquoted)
        for key, parts in messages.items()
    ]


def shown(value: Any) -> str:
    """Return `value` as it would be written in YAML on one line, shortened if long."""
    text = value if _is_plain_text(value) else json.dumps(value, ensure_ascii=False, default=str)
    return _on_one_line(text)


def _on_one_line(text: str) -> str:
    """Return `text` shortened if long, a control character or a lone surrogate as its escape."""
    text = text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 3] + "..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _is_plain_text(value: Any) -> bool:
    """Return whether `value` is a string that nobody takes for something else when it stands without quotes."""
    return isinstance(value, str) and not re.fullmatch(r"\s*|[-+.\d][-+.\de]*|true|false|null", value, re.IGNORECASE)


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


def _message(details: ErrorDetails) -> str:
    kind, text = details["type"], details["msg"]
    if kind == "extra_forbidden":
        return "there is no such setting"
    if kind == "missing":
        return "is missing"
    if kind in ("value_error", "assertion_error"):
        return text.partition(", ")[2]
    if kind == "string_type" and isinstance(details["input"], int | float):
        return f"must be a string, as {shown(details['input'])} is only in quotes"
    text = re.sub(r"^\w+ should ", "must ", text)
    for technical, plain in _PLAIN_WORDS.items():
        text = text.replace(technical, plain)
    return text if ", not " in text else f"{text}, not {shown(details['input'])}"
