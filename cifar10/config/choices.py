"""Overrides that choose the data set and the network of another configuration, for command lines in messages."""

from collections.abc import Mapping
from typing import Any

from cifar10.config.advice import setting
from cifar10.config.build import fill_defaults
from cifar10.config.conf_folder import content_of, options
from cifar10.config.schema import Component
from cifar10.config.targets import ROLES, BuildError

_TORCHVISION = "torchvision.models."  # one file of conf/ is for all of them
_DEFAULTS = {"data_loading": "cifar10", "model": "speed"}


def same_data_and_network(values: Mapping[str, Any], taken: Mapping[str, Any] | None = None) -> list[str]:
    """Return the shortest overrides that choose the sections data_loading and model of `values`.

    Args:
        values: A configuration, as in YAML.
        taken: Overrides that are typed already, by key; these keys are left out.
    """
    words = []
    for group in _DEFAULTS:
        section = values.get(group)
        if not isinstance(section, Mapping):
            continue
        candidates = [_words_for(group, option, section) for option in options(group)]
        shortest = min((found for found in candidates if found is not None), key=len, default=[])
        words += [word for word in shortest if word.partition("=")[0] not in (taken or {})]
    return words


def _words_for(group: str, option: str, section: Mapping[str, Any]) -> list[str] | None:
    """Return the overrides that make `option` of `group` equal to `section`; None if it is for another target."""
    content, target = content_of(group, option), str(section.get("_target_"))
    own = str(content.get("_target_"))
    if own != target and not (own.startswith(_TORCHVISION) and target.startswith(_TORCHVISION)):
        return None
    chosen = [] if option == _DEFAULTS[group] else [f"{group}={option}"]
    chosen += [] if own == target else [setting(f"{group}._target_", target)]
    try:
        arguments = fill_defaults(ROLES[group], Component.model_validate({**content, "_target_": target})).arguments
    except BuildError:
        return None
    differing = {key: value for key, value in section.items() if key != "_target_" and arguments.get(key) != value}
    return chosen + [setting(f"{group}.{key}", value) for key, value in differing.items()]
