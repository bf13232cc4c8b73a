"""Plain values as YAML, each on one line: the output of `data` and `config`."""

import contextlib
import sys
from collections.abc import Sequence
from typing import Any

import yaml


def one_line(value: Any) -> str:
    """Return `value`, of plain types, as YAML on one line."""
    text = _dumped(value, flow=True)
    return text.removesuffix("\n").removesuffix("\n...").removesuffix("\n")


def one_line_each(texts: Sequence[str]) -> list[str]:
    """Return each of `texts` as YAML on one line, which may also be used as a key. Fast for many."""
    lines = _dumped(list(texts), flow=False).split("\n")[:-1]
    return [line.removeprefix("- ") for line in lines] if texts else []


class _Dumper(yaml.SafeDumper):
    """PyYAML's quoting, with quotes also around text that it would break into lines, and around all numbers."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        needs_quotes = not text.isprintable()
        with contextlib.suppress(ValueError):
            float(text)
            needs_quotes = True  # YAML 1.2 reads 1e3 as a number, PyYAML as text
        return self.represent_scalar("tag:yaml.org,2002:str", text, style='"' if needs_quotes else None)


_Dumper.add_representer(str, _Dumper.represent_text)


def _dumped(value: Any, flow: bool) -> str:
    rules: dict[str, Any] = {
        "default_flow_style": flow,
        "allow_unicode": True,
        "width": sys.maxsize,
        "sort_keys": False,
    }
    return str(yaml.dump(value, Dumper=_Dumper, **rules))
