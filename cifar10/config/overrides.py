"""Hydra overrides, parsed one by one before Hydra composes, so that each error is reported.

Lines are bounded before they are parsed: the time of Hydra's parser grows with the square of a list's length, and its
depth with that of the brackets.
"""

import itertools
import re
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePath

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType, Quote, QuotedString
from hydra.errors import HydraException

from cifar10.config.conf_folder import groups, options
from cifar10.config.schema import Config
from cifar10.config.validation import Problem, shown
from cifar10.suggest import did_you_mean

_LONGEST_LINE = 20_000  # characters; a list of so many takes about a second
_LONGEST_IN_ALL = 100_000
_MOST_LINES = 500
_DEEPEST = 20  # brackets within brackets, or sections within sections
_LONGEST_NUMBER = 300  # digits
_SEVERAL = ("metric",)  # groups of which a run may have any number of options
_LONGEST_ADVICE = 400  # characters of a line that is told to be typed

_TYPEWRITER = str.maketrans(
    {**dict.fromkeys("“”„‟«»″", '"'), **dict.fromkeys("‘’‚‛′", "'"), **dict.fromkeys("‐‑‒–—−", "-")}
)
"""Characters that word processors and chats put in the place of plain ones."""

_ELEMENT = re.compile(r""" "(?:\\.|[^"\\])*" | '(?:\\.|[^'\\])*' | [^,\[\]"']+ """, re.VERBOSE)
"""An element of a list as it is written: in quotes of either kind, or plain."""


def parse_overrides(lines: Sequence[str]) -> tuple[list[Override], list[Problem]]:
    """Return the valid overrides in order, and one error message for each invalid one."""
    if len(lines) > _MOST_LINES or sum(min(len(line), _LONGEST_LINE) for line in lines) > _LONGEST_IN_ALL:
        told = f"{len(lines):,} settings of {sum(map(len, lines)):,} characters in all are too many to be read here"
        return [], [Problem("", f"{told}, at most {_MOST_LINES} of {_LONGEST_IN_ALL:,}; put them into a file of conf/")]
    overrides: list[Override] = []
    problems: list[Problem] = []
    for line in lines:
        override = _read(line)
        if isinstance(override, str):
            problems.append(Problem("", override))
            continue
        problem = _choice_problem(override) if is_choice(override) else _value_problem(override)
        if problem is None:
            overrides.append(_as_choice(override) if is_choice(override) else override)
        else:
            problems.append(Problem(override.key_or_group, problem))
    return overrides, problems + _repeated_choices(overrides)


def is_choice(override: Override) -> bool:
    """Return whether `override` chooses a file, as in `model=resnet18`, rather than a value."""
    return override.key_or_group in groups()


def as_strings(override: Override) -> str:
    """Return the line of `override` with its value, or each element of its list, in quotes."""
    key, _, value = str(override.input_line).partition("=")
    return f"{key}={_each_quoted(value) or _quoted(value)}"


def typed(line: str) -> str:
    """Return `line` as it is typed into a shell; of a line that is too long to read, the beginning."""
    return shlex.quote(line) if len(line) <= _LONGEST_ADVICE else f"{shlex.quote(line[:_LONGEST_ADVICE])}..."


def readable(line: str) -> str:
    """Return the override that `line` means, in quotes where Hydra needs them."""
    key, equals, value = line.partition("=")
    if not equals or _bound_problem(line) or not line.isprintable() or _parsed(line):
        return line
    return f"{key}={_quoted(value)}"


def _read(line: str) -> Override | str:
    """Return the override that `line` is, or what is wrong with it."""
    problem = _bound_problem(line)
    if problem:
        return problem
    if not line.isprintable():
        character = next(c for c in line if not c.isprintable()).encode("unicode_escape").decode()
        return f"{shown(line)} has a character that Hydra cannot read, {character}; leave it out"
    return _parsed(line) or _parsed(_home_in_quotes(line)) or _grammar_advice(line)


def _bound_problem(line: str) -> str | None:
    if len(line) > _LONGEST_LINE:
        return (
            f"{shown(line)} of {len(line):,} characters is too long to be read here, at most {_LONGEST_LINE:,}; "
            "put it into a file of conf/"
        )
    if _depth(line) > _DEEPEST:
        return f"{shown(line)} is nested too deeply: at most {_DEEPEST} brackets may stand within each other"
    if line.partition("=")[0].count(".") > _DEEPEST:
        return f"{shown(line)} is nested too deeply: a key has at most {_DEEPEST} dots"
    if re.search(rf"[0-9_]{{{_LONGEST_NUMBER}}}", line):
        return f"{shown(line)} has a number of {_LONGEST_NUMBER} digits or more; no setting takes that"
    return None


def _depth(line: str) -> int:
    """Return how many brackets are open at once at most, those within quotes too."""
    return max(itertools.accumulate(((c in "[{(") - (c in "]})") for c in line), initial=0))


def _parsed(line: str) -> Override | None:
    """Return `line` as Hydra reads it, None if it cannot."""
    try:
        override = OverridesParser.create().parse_override(line)
    except (HydraException, ValueError):
        return None
    return override if override.key_or_group else None


def _home_in_quotes(line: str) -> str:
    """Return `line` with paths that begin with `~` in quotes: Hydra has another use for it, and nobody means that."""
    key, equals, value = line.partition("=")
    quoted = re.sub(
        r"(^|[\[,]\s*)((?:sqlite:///)?~[^,\[\]\"']*)", lambda match: match[1] + _quoted(match[2].rstrip()), value
    )
    return f"{key}{equals}{quoted}"


def _quoted(value: str) -> str:
    """Return `value` so that Hydra takes it for the string that it is."""
    return QuotedString(value.replace("${", r"\${"), Quote.double).with_quotes()


def _each_quoted(value: str) -> str | None:
    """Return a list of plain elements with each in quotes; None if `value` is none."""
    value = value.strip()
    if not (value.startswith("[") and value.endswith("]")) or "[" in value[1:-1] or "{" in value:
        return None
    elements = [element.strip() for element in _ELEMENT.findall(value[1:-1])]
    in_quotes = [text if text[0] in ("'", '"') else _quoted(text) for text in elements if text]
    return f"[{','.join(in_quotes)}]"


def _grammar_advice(line: str) -> str:
    """Return why Hydra cannot read `line`, and the line that it can read, ready for a shell."""
    key, equals, value = line.partition("=")
    key = key.strip()
    if not equals:
        return f"{shown(line)} is not an override: write KEY=VALUE, as in model=resnet18 or training.epochs=5"
    tight = f"{key.rstrip(':')}={value.lstrip('= ')}"
    if tight != line and _parsed(tight):
        return f"{shown(line)} is not an override: write {typed(tight)}"
    for plainer in _plainer(value):
        if _parsed(f"{key}={plainer}"):
            return f"{key}: Hydra cannot read {shown(value)}; write {typed(f'{key}={plainer}')}"
    if not _parsed(f"{key}=1"):
        return (
            f"{shown(line)} is not an override: {shown(key)} cannot be a key; write KEY=VALUE, as in training.epochs=5"
        )
    quoted = next(
        text for text in (_each_quoted(value), _quoted(value)) if text is not None and _parsed(f"{key}={text}")
    )
    return f"{key}: Hydra reads {shown(value)} only in quotes: {typed(f'{key}={quoted}')}"


def _plainer(value: str) -> list[str]:
    """Return what may be meant by a value that word processors, JSON or other languages have a hand in."""
    plain = value.translate(_TYPEWRITER)
    unquoted = plain[1:-1] if plain != value and plain[:1] == plain[-1:] and plain[:1] in ("'", '"') else plain
    without_key_quotes = re.sub(r"""(["'])(\w+)\1\s*:""", r"\2:", plain)
    number = re.sub(r"(?<=[0-9])[ ;,]+$", "", plain)
    candidates = (unquoted, plain, without_key_quotes, number)
    return [candidate for candidate in candidates if candidate not in ("", value)]


def _choice_problem(override: Override) -> str | None:
    group, choice = override.key_or_group, override.value()
    known = options(group)
    listed = f"choose one of {', '.join(known) or '(none yet)'}"
    if override.package is not None:
        return "a group has its one place here; leave out @ and what follows"
    if override.is_delete() or choice is None:
        return f"cannot be left out; {listed}" if group in Config.model_fields and group not in _SEVERAL else None
    if override.is_sweep_override() or (
        isinstance(choice, list) and group in Config.model_fields and group not in _SEVERAL
    ):
        return f"several are given, and a run has one; {listed}"
    chosen = choice if isinstance(choice, list) else [choice]
    for option in chosen:
        if isinstance(option, dict):
            return f"{listed}; a value in it is set as {group}.KEY=VALUE"
        if shown(option) not in known:
            advice = did_you_mean(PurePath(str(option)).stem, known)
            return f"there is no {shown(option)} among {', '.join(known)}{advice}"
    return None


def _value_problem(override: Override) -> str | None:
    key = override.key_or_group
    if override.is_hydra_override() or key == "hydra":
        return "Hydra only composes here; its own settings have no effect"
    if "/" in key or override.package is not None:
        group = key.partition("/")[0]
        return f"there is no such group{did_you_mean(group, groups())}"
    if override.is_sweep_override():
        value = str(override.input_line).partition("=")[2]
        if "(" in value:
            return "several values are given, and a run has one"
        if re.fullmatch(r"[-+]?[0-9]+,[0-9]+", value):
            fraction = value.replace(",", ".")
            other = f"a fraction {typed(f'{key}={fraction}')}"
        else:
            other = f"a name with a comma {typed(f'{key}={_quoted(value)}')}"
        return f"several values are given, and a run has one; {other}; a list is written {typed(f'{key}=[{value}]')}"
    return None


def _repeated_choices(overrides: Sequence[Override]) -> list[Problem]:
    counts = Counter(override.key_or_group for override in overrides if is_choice(override))
    return [Problem(group, f"is chosen {count} times; choose once") for group, count in counts.items() if count > 1]


def _as_choice(override: Override) -> Override:
    """Return `override` so that Hydra takes it with or without `+`, and null and `~` alike for none."""
    if override.is_delete() or override.value() is None:
        return replace(override, type=OverrideType.DEL, input_line=f"~{override.key_or_group}")
    return replace(override, type=OverrideType.CHANGE, input_line=str(override.input_line).lstrip("+"))
