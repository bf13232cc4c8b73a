"""The section `model` of a configuration, for a network that is used with its published weights as it is."""

import os
import shlex
from collections.abc import Sequence
from typing import Any

from cifar10.config.compose import load_component
from cifar10.config.schema import Component
from cifar10.errors import UsageError
from cifar10.suggest import did_you_mean_path


def pretrained_model(overrides: Sequence[str], weights: "str | os.PathLike[str] | None" = None) -> Component:
    """Return the network that the overrides `model=` and `model.KEY=` choose.

    Args:
        overrides: At least one.
        weights: A file, in place of `model.weights`; None: as the overrides say.

    Raises:
        UsageError: It is not pretrained, or its file of weights does not exist.
        ConfigError: There is no such network, or a value is not possible.
    """
    component = load_component("model", overrides)
    chosen: dict[str, Any] = {} if weights is None else {"weights": os.fspath(weights)}
    if component.arguments.get("weights", "none") == "none":
        raise UsageError(
            f"{shlex.join(overrides)} has no trained weights; choose model=NAME_imagenet, such as "
            "model=resnet152_imagenet, or a checkpoint: --checkpoint_name=NAME"
        )
    arguments = {**component.arguments, **chosen}
    file = arguments["weights"]
    if file is not None and not os.path.isfile(file):
        raise UsageError(f"model.weights: there is no file {file}{did_you_mean_path(file)}")
    return component.model_copy(update={"arguments": arguments})
