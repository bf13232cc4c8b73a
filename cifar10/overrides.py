"""The words after `train`: Hydra's overrides, read one by one before Hydra sees them, so that each fault is told."""

import re
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePath

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType, Quote, QuotedString
from hydra.errors import HydraException

from cifar10.conf_folder import groups, options
from cifar10.config import Config
from cifar10.nearest import did_you_mean
from cifar10.validation import Problem, shown


def parse_overrides(lines: Sequence[str]) -> tuple[list[Override], list[Problem]]:
    """Return the overrides, ready for Hydra, and what is wrong with those that are not."""
    overrides: list[Override] = []
    problems: list[Problem] = []
    for line in lines:
        override = _parsed(line)
        if override is None or not override.key_or_group:
            problems.append(Problem("", _grammar_advice(line)))
            continue
        problem = _choice_problem(override) if is_choice(override) else _value_problem(override)
        if problem is None:
            overrides.append(_forced(override))
        else:
            problems.append(Problem(override.key_or_group, problem))
    return overrides, problems + _repeated_choices(overrides)


def is_choice(override: Override) -> bool:
    """Return whether `override` chooses a file, as in `model=resnet18`, rather than a value."""
    return override.key_or_group in groups()


def _parsed(line: str) -> Override | None:
    try:
        return OverridesParser.create().parse_override(line)
    except HydraException:
        return None


def _grammar_advice(line: str) -> str:
    """Return why Hydra cannot read `line`, and the line that it can read, ready for a shell."""
    key, equals, value = line.partition("=")
    key = key.strip()
    if not line.isprintable():
        return f"{line!r} has characters that Hydra cannot read"
    if not equals:
        return f"{shown(line)} is not an override: write KEY=VALUE, as in model=resnet18 or training.epochs=5"
    tight = f"{key.rstrip(':')}={value.lstrip('= ')}"
    if tight != line and _parsed(tight):
        return f"{shown(line)} is not an override: write {tight}"
    if not re.fullmatch(r"(\+\+?|~)?[A-Za-z_][\w./@:-]*", key, re.ASCII):
        return (
            f"{shown(line)} is not an override: {shown(key)} cannot be a key; write KEY=VALUE, as in training.epochs=5"
        )
    quoted = f"{key}={QuotedString(value, Quote.double).with_quotes()}"
    return f"{key}: Hydra reads {shown(value)} only in quotes: {shlex.quote(quoted)}"


def _choice_problem(override: Override) -> str | None:
    group, choice = override.key_or_group, override.value()
    known = options(group)
    listed = f"choose one of {', '.join(known) or '(none yet)'}"
    if override.package is not None:
        return "a group has its one place here; leave out @ and what follows"
    if override.is_delete() or (choice is None and group not in Config.model_fields):
        return None
    if override.is_sweep_override() or (isinstance(choice, list) and group in Config.model_fields):
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
        example = f"[{value}]" if "(" not in value else "[1,2]"
        return f"several values are given, and a run has one; a list is written {example}"
    return None


def _repeated_choices(overrides: Sequence[Override]) -> list[Problem]:
    counts = Counter(override.key_or_group for override in overrides if is_choice(override))
    return [Problem(group, f"is chosen {count} times; choose once") for group, count in counts.items() if count > 1]


def _forced(override: Override) -> Override:
    """Return `override` so that Hydra takes it whether the key exists or not: the schema knows which may exist."""
    if override.is_delete():
        return override
    line = str(override.input_line).lstrip("+")
    if is_choice(override) and override.value() is None:
        return replace(override, type=OverrideType.DEL, input_line=f"~{override.key_or_group}")
    if is_choice(override):
        return replace(override, type=OverrideType.CHANGE, input_line=line)
    return replace(override, type=OverrideType.FORCE_ADD, input_line=f"++{line}")
