"""Settings of `promote`: a file of `conf/promotion/`, and overrides promotion.KEY=VALUE."""

from collections.abc import Sequence
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError

from cifar10.config.conf_folder import option_file
from cifar10.config.overrides import parse_overrides
from cifar10.config.schema import Section
from cifar10.config.validation import problems_of, validate
from cifar10.errors import UsageError, first_line

_GROUP = "promotion"


class Promotion(Section):
    """What a network must hold to get an alias, beside an export that computes what its checkpoint computes."""

    latency_factor: Annotated[float, Field(gt=0, le=1000)]
    """Largest time for one image, divided by that of the network that has the alias; medians."""
    latency_images: Annotated[int, Field(ge=10, le=100_000)]
    """Test images that are timed one by one."""
    floor: Annotated[float, Field(ge=0, lt=1)] | None
    """The lower end of the accuracy's interval must exceed it. None: the share of the most frequent class."""


def is_of_promotion(word: str) -> bool:
    """Return whether an override chooses or changes these settings."""
    return word.lstrip("+~").partition("=")[0].partition(".")[0] == _GROUP


def read_promotion(words: Sequence[str]) -> Promotion:
    """Return the settings that the overrides `promotion=NAME` and `promotion.KEY=VALUE` describe.

    Raises:
        UsageError: There is no such file or setting, or a value is not possible.
    """
    names = [word.partition("=")[2] for word in words if word.partition("=")[0] == _GROUP]
    if len(names) > 1:
        raise UsageError(f"{' and '.join(f'{_GROUP}={name}' for name in names)}: choose one")
    overrides, problems = parse_overrides([word for word in words if word.partition("=")[0] != _GROUP])
    if problems:
        raise UsageError("\n".join(map(str, problems)))
    values = _content(names[0] if names else "default")
    values |= {each.key_or_group.partition(".")[2]: each.value() for each in overrides}
    try:
        return validate(Promotion, values)
    except ValidationError as error:
        found = problems_of(error, values, list(Promotion.model_fields))
        raise UsageError("\n".join(str(each.within(_GROUP)) for each in found)) from None
    except (TypeError, ValueError) as error:
        raise UsageError(f"{_GROUP}: {first_line(error)}") from None


def _content(name: str) -> dict[str, Any]:
    file = option_file(_GROUP, name, "file of settings")
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError(f"it must be a mapping with the keys {', '.join(Promotion.model_fields)}")
        return {str(key): value for key, value in values.items()}
    except OSError as error:
        raise UsageError(f"{_GROUP}: {file} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise UsageError(f"{_GROUP}: {file}: {first_line(error)}") from None
