"""Settings of one command: a file of `conf/GROUP/`, with overrides GROUP=NAME and GROUP.KEY=VALUE. Needs no Hydra."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from cifar10.config.conf_folder import option_file
from cifar10.config.foreign_yaml import parse_yaml
from cifar10.config.schema import Section
from cifar10.config.validation import problems_of, validate
from cifar10.errors import UsageError, first_line
from cifar10.files import read_text

Settings = TypeVar("Settings", bound=Section)


def is_of_group(group: str, word: str) -> bool:
    """Return whether an override chooses or changes the settings of `group`."""
    return word.lstrip("+~").partition("=")[0].partition(".")[0] == group


def read_settings(model: type[Settings], group: str, words: Sequence[str]) -> Settings:
    """Return the settings of `conf/GROUP/default.yaml`, or of another file that the overrides choose.

    Args:
        model: Of the settings, all of which the file holds.
        group: GROUP.
        words: Overrides `GROUP=NAME`, `GROUP=FILE.yaml` and `GROUP.KEY=VALUE`; a value is a number, true, false, null
            or text.

    Raises:
        UsageError: There is no such file or setting, or a value is not possible; each line names a key.
    """
    given = [word.partition("=") for word in words]
    for word, (key, equals, _) in zip(words, given, strict=True):
        if not equals or not is_of_group(group, key):
            raise UsageError(f"{word}: only {group}=NAME and {group}.KEY=VALUE can be set")
    names = [value for key, _, value in given if key == group]
    if len(names) > 1:
        raise UsageError(f"{' and '.join(f'{group}={name}' for name in names)}: choose one")
    values = _content(group, option_file(group, names[0] if names else "default", "file of settings"), model)
    values |= {key.removeprefix(f"{group}."): _scalar(key, value) for key, _, value in given if key != group}
    try:
        return validate(model, values)
    except ValidationError as error:
        problems = problems_of(error, values, list(model.model_fields))
        raise UsageError("; ".join(str(problem.within(group)) for problem in problems)) from None
    except (TypeError, ValueError) as error:
        raise UsageError(f"{group}: {first_line(error)}") from None


def _content(group: str, file: Path, model: type[Section]) -> dict[str, Any]:
    try:
        values = parse_yaml(read_text(file))
        if not isinstance(values, Mapping):
            raise ValueError(f"it must be a mapping with the keys {', '.join(model.model_fields)}")
        return {str(key): value for key, value in values.items()}
    except OSError as error:
        raise UsageError(f"{group}: {file} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise UsageError(f"{group}: {file}: {first_line(error)}") from None


def _scalar(key: str, value: str) -> Any:
    if "," in value:
        raise UsageError(f"{key}: several values are given; one is possible")
    try:
        return yaml.safe_load(value)
    except (ValueError, RecursionError, yaml.YAMLError):
        raise UsageError(f"{key}={value}: the value cannot be read; give a number, true, false or null") from None
