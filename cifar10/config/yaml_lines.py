"""Plain values as YAML, each on one line: the output of `data` and `config`."""

import sys
from collections.abc import Sequence
from typing import Any

import yaml


def one_line(value: Any) -> str:
    """Return `value`, of plain types, as YAML on one line."""
    text = _dumped(value, flow=True)
    return text.removesuffix("\n").removesuffix("\n...").removesuffix("\n")


def one_line_each(texts: Sequence[str]) -> list[str]:
    """Return each of `texts` as YAML on a line of its own; it may stand as a key too. Fast for many."""
    lines = _dumped(list(texts), flow=False).split("\n")[:-1]
    return [line.removeprefix("- ") for line in lines] if texts else []


class _Dumper(yaml.SafeDumper):
    """PyYAML's own quoting, with quotes also around what it would write on several lines or others read as a number."""


def _represent_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    quoted = not text.isprintable() or _is_number(text)
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if quoted else None)


_Dumper.add_representer(str, _represent_text)


def _is_number(text: str) -> bool:
    """Tell whether `text` is a number somewhere: YAML 1.2 reads 1e3 as one, PyYAML as text."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def _dumped(value: Any, flow: bool) -> str:
    text: str = yaml.dump(
        value, Dumper=_Dumper, default_flow_style=flow, allow_unicode=True, width=sys.maxsize, sort_keys=False
    )
    return text
