"""Hydra overrides, parsed one by one before Hydra composes, so that every error is reported.

The size of a line is limited: the time of Hydra's parser is quadratic in the length of a list, and its recursion is as
deep as the brackets.
"""

import itertools
import re
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePath
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException

from cifar10.classifier_names import IMAGENET, classifier_names
from cifar10.config.advice import quoted
from cifar10.config.conf_folder import groups, options
from cifar10.config.schema import Config
from cifar10.config.validation import Problem, shown
from cifar10.suggest import did_you_mean

_LONGEST_LINE = 20_000  # characters; a list of this length takes about a second
_LONGEST_IN_ALL = 100_000
_MOST_LINES = 500
_DEEPEST = 20  # brackets within brackets, or sections within sections
_LONGEST_NUMBER = 300  # digits
_FORM = "write KEY=VALUE, as in model=resnet18 or training.epochs=5"
_LONGEST_ADVICE = 400  # characters of a line to type

_PRETRAINED = re.compile(rf"\+?model=([\w.]+){IMAGENET}", re.ASCII)
_OPTIONS_OF_PACKAGES = {"torchvision": "imagenet", "timm": "timm"}
"""Package -> the file of conf/model/ for its classifiers. Of a name that both have, it is torchvision's."""

_OTHER_PLACES = {"training.tensorboard": "tracking.tensorboard"}
"""Key where a setting may be looked for as well -> its key."""

_TYPEWRITER = str.maketrans(
    {**dict.fromkeys("“”„‟«»″", '"'), **dict.fromkeys("‘’‚‛′", "'"), **dict.fromkeys("‐‑‒–—−", "-")}
)
"""Characters that word processors and chat programs put in place of plain ones."""

_ELEMENT = re.compile(r""" "(?:\\.|[^"\\])*" | '(?:\\.|[^'\\])*' | [^,\[\]"']+ """, re.VERBOSE)
"""An element of a list as it is written: in quotes of either kind, or plain."""


def parse_overrides(lines: Sequence[str]) -> tuple[list[Override], list[Problem]]:
    """Return the valid overrides in order, and one problem for each invalid one."""
    if len(lines) > _MOST_LINES or sum(min(len(line), _LONGEST_LINE) for line in lines) > _LONGEST_IN_ALL:
        given = f"{len(lines):,} settings of {sum(map(len, lines)):,} characters in all are too many"
        return [], [
            Problem("", f"{given}, at most {_MOST_LINES} of {_LONGEST_IN_ALL:,}; put them into a file of conf/")
        ]
    read = [_read(line) for given in lines for line in _spelled_out(given)]
    overrides = [override for override in read if isinstance(override, Override)]
    counts = Counter(override.key_or_group for override in overrides if is_choice(override))
    problems = [problem for problem in read if isinstance(problem, Problem)]
    problems += [Problem(key, f"is chosen {count} times; choose once") for key, count in counts.items() if count > 1]
    return overrides, problems


def is_choice(override: Override) -> bool:
    """Return whether `override` chooses a file, as `model=resnet18` does, and does not set a value."""
    return override.key_or_group in groups()


def as_strings(override: Override) -> str:
    """Return the line of `override` with its value, or each element of its list, in quotes."""
    key, _, value = str(override.input_line).partition("=")
    return f"{key}={_each_quoted(value) or quoted(value)}"


def typed(line: str) -> str:
    """Return `line` quoted for a shell, cut if long."""
    return shlex.quote(line) if len(line) <= _LONGEST_ADVICE else f"{shlex.quote(line[:_LONGEST_ADVICE])}..."


def readable(line: str) -> str:
    """Return the override `line`, with its value in quotes if Hydra needs them."""
    key, equals, value = line.partition("=")
    if not equals or _bound_problem(line) or not line.isprintable() or _parsed(line):
        return line
    return f"{key}={quoted(value)}"


def parsed_list(line: str, lists_only: bool = True) -> Override | None:
    """Return `line` parsed by Hydra if it lists several values, as in `optimizer.lr=0.1,0.2`; else None.

    Args:
        line: An override.
        lists_only: False: also one that sets a single value.
    """
    override = _parsed(line) if _bound_problem(line) is None and line.isprintable() else None
    return override if override is not None and (override.is_sweep_override() or not lists_only) else None


def _spelled_out(line: str) -> list[str]:
    """Return `line`, or the overrides that it stands for.

    Those of model=NAME_imagenet choose the classifier NAME of torchvision, or of timm where torchvision has none of
    that name.
    """
    key, equals, value = line.partition("=")
    if key.strip() in _OTHER_PLACES:
        return [f"{_OTHER_PLACES[key.strip()]}{equals}{value}"]
    pretrained = _PRETRAINED.fullmatch(line.strip())
    if pretrained is None or f"{pretrained[1]}{IMAGENET}" in options("model"):
        return [line]
    for package, option in _OPTIONS_OF_PACKAGES.items():
        if pretrained[1].partition(".")[0] in classifier_names(package):
            return [f"model={option}", f"model.name={quoted(pretrained[1])}"]
    return [line]


def _read(line: str) -> Override | Problem:
    """Return the override in `line`, ready for Hydra, or the problem with it."""
    message = _bound_problem(line)
    if message is None and not line.isprintable():
        character = next(c for c in line if not c.isprintable()).encode("unicode_escape").decode()
        message = f"{shown(line)} has a character that Hydra cannot read, {character}; leave it out"
    if message is not None:
        return Problem("", message)
    override = _parsed(line) or _parsed(_home_in_quotes(line))
    if override is None:
        return Problem("", _grammar_advice(line))
    key = override.key_or_group
    message = _choice_problem(override) if is_choice(override) else _value_problem(override)
    if message is not None:
        return Problem(key, message)
    if not is_choice(override):
        return override
    if override.is_delete() or override.value() is None:  # null and `~` both mean none
        return replace(override, type=OverrideType.DEL, input_line=f"~{key}")
    return replace(override, type=OverrideType.CHANGE, input_line=str(override.input_line).lstrip("+"))


def _bound_problem(line: str) -> str | None:
    brackets = ((c in "[{(") - (c in "]})") for c in line)  # also those in quotes
    if len(line) > _LONGEST_LINE:
        problem = f"of {len(line):,} characters is too long, at most {_LONGEST_LINE:,}; put it into a file of conf/"
    elif max(itertools.accumulate(brackets, initial=0)) > _DEEPEST:
        problem = f"is nested too deeply: at most {_DEEPEST} brackets may be open at once"
    elif line.partition("=")[0].count(".") > _DEEPEST:
        problem = f"is nested too deeply: a key has at most {_DEEPEST} dots"
    elif re.search(rf"[0-9_]{{{_LONGEST_NUMBER}}}", line):
        problem = f"has a number of {_LONGEST_NUMBER} digits or more; no setting takes that"
    else:
        return None
    return f"{shown(line)} {problem}"


def _parsed(line: str) -> Override | None:
    """Return `line` parsed by Hydra, None if it is not valid."""
    try:
        override = OverridesParser.create().parse_override(line)
    except (HydraException, ValueError):
        return None
    return override if override.key_or_group else None


def _home_in_quotes(line: str) -> str:
    """Return `line` with quotes around paths that begin with `~`, which has another meaning for Hydra."""
    key, equals, value = line.partition("=")
    paths = r"(^|[\[,]\s*)((?:sqlite:///)?~[^,\[\]\"']*)"
    return f"{key}{equals}{re.sub(paths, lambda match: match[1] + quoted(match[2].rstrip()), value)}"


def _each_quoted(value: str) -> str | None:
    """Return a list with each element in quotes; None if `value` is not a list of plain elements."""
    value = value.strip()
    if not (value.startswith("[") and value.endswith("]")) or "[" in value[1:-1] or "{" in value:
        return None
    elements = [element.strip() for element in _ELEMENT.findall(value[1:-1])]
    in_quotes = [text if text[0] in ("'", '"') else quoted(text) for text in elements if text]
    return f"[{','.join(in_quotes)}]"


def _grammar_advice(line: str) -> str:
    """Return why Hydra cannot read `line`, and a line that it can read, quoted for a shell."""
    key, equals, value = line.partition("=")
    key = key.strip()
    if not equals:
        return f"{shown(line)} is not an override: {_FORM}"
    tight = f"{key.rstrip(':')}={value.lstrip('= ')}"
    if tight != line and _parsed(tight):
        return f"{shown(line)} is not an override: write {typed(tight)}"
    for plainer in _plainer(value):
        if _parsed(f"{key}={plainer}"):
            return f"{key}: Hydra cannot read {shown(value)}; write {typed(f'{key}={plainer}')}"
    if not _parsed(f"{key}=1"):
        return f"{shown(line)} is not an override: {shown(key)} cannot be a key; {_FORM}"
    each_quoted = f"{key}={_each_quoted(value)}"
    readable_line = each_quoted if _each_quoted(value) and _parsed(each_quoted) else f"{key}={quoted(value)}"
    return f"{key}: Hydra reads {shown(value)} only in quotes: {typed(readable_line)}"


def _plainer(value: str) -> list[str]:
    """Return readings of a value that was written by a word processor, or in JSON or another language."""
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
    is_single = group in Config.model_fields and group != "metric"  # any number of metrics
    if override.package is not None:
        return "a group has one fixed place; leave out @ and what follows"
    if override.is_delete() or choice is None:
        return f"cannot be left out; {listed}" if is_single else None
    if override.is_sweep_override() or (isinstance(choice, list) and is_single):
        as_list = f"a list is written '{group}=[{(override.input_line or '').partition('=')[2]}]'"
        return as_list if group == "metric" else f"several are given, and a run has one; {listed}"
    for option in choice if isinstance(choice, list) else [choice]:
        if isinstance(option, dict):
            return f"{listed}; a value in it is set as {group}.KEY=VALUE"
        if shown(option) not in known:
            return _unknown_option(group, option)
    return None


def _unknown_option(group: str, option: Any) -> str:
    known = options(group)
    if group == "model" and (problem := _problem_of_name(str(option))) is not None:
        return problem
    return f"there is no {shown(option)} among {', '.join(known)}{did_you_mean(PurePath(str(option)).stem, known)}"


def _problem_of_name(option: str) -> str | None:
    """Return what is wrong with NAME_imagenet, or with the name of a classifier without `_imagenet`."""
    if option in classifier_names("torchvision"):
        return f"there is no {option} in conf/; with the weights of torchvision: model={option}{IMAGENET}"
    if not option.endswith(IMAGENET):
        return None
    name, packages = option.removesuffix(IMAGENET), [*filter(classifier_names, _OPTIONS_OF_PACKAGES)]
    known = [f"{known}{IMAGENET}" for package in packages for known in classifier_names(package)]
    advice = did_you_mean(option, known)
    if "timm" not in packages:
        advice += f"{' For' if advice else '; for'} the networks of timm: python -m pip install timm"
    know = "know" if len(packages) > 1 else "knows"
    return f"there is no {shown(option)}: {' and '.join(packages)} {know} no {shown(name)}{advice}"


def _value_problem(override: Override) -> str | None:
    key = override.key_or_group
    if override.is_hydra_override() or key == "hydra":
        return "Hydra only composes here; its own settings have no effect"
    if "/" in key or override.package is not None:
        group = key.partition("/")[0]
        return f"there is no such group{did_you_mean(group, groups())}"
    if not override.is_sweep_override():
        return None
    several = "several values are given, and a run has one"
    value = str(override.input_line).partition("=")[2]
    if "(" in value:
        return several
    name_or_number = f"a name with a comma {typed(f'{key}={quoted(value)}')}"
    if re.fullmatch(r"[-+]?[0-9]+,[0-9]+", value):
        name_or_number = f"a fraction {key}={value.replace(',', '.')}"
    return f"{several}; {name_or_number}; a list is written {typed(f'{key}=[{value}]')}"
