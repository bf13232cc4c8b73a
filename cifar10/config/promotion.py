"""Settings of `promote`: a file of `conf/promotion/`, and overrides promotion.KEY=VALUE."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from cifar10.config.command_settings import is_of_group, read_settings
from cifar10.config.schema import Section

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
    return is_of_group(_GROUP, word)


def read_promotion(words: Sequence[str]) -> Promotion:
    """Return the settings that the overrides describe; arguments and errors of `read_settings`."""
    return read_settings(Promotion, _GROUP, words)
