"""Checks before training that network, batch size and memory fit, with the settings to change."""

import copy
import logging
from typing import Any

import torch
from torch import nn

from cifar10.config.schema import Component, Config
from cifar10.errors import UserError
from cifar10.system.limits import total_memory
from cifar10.training.batches import largest_batch
from cifar10.training.resizing import scaled

log = logging.getLogger(__name__)

_COPIES = 3  # of each weight, at least, in training: itself, its gradient and one moment


def sizes_of(section: str, component: Component) -> str:
    """Return the arguments of `component` that are whole numbers or lists of them, as overrides: `model.width=64`."""
    sizes = [f"{section}.{name}={value}" for name, value in component.arguments.items() if _is_size(value)]
    return ", ".join(sizes).replace("[", "'[").replace("]", "]'") or section


def training_advice(config: Config) -> str:
    """Return what to lower if memory runs out in training."""
    training = config.training
    pixels = ", the images' size" if "image_size" not in config.data_loading.arguments else ""
    drawn = f", data_loading.image_size={config.data_loading.arguments['image_size']}" if not pixels else ""
    return (
        f"lower training.batch_size={training.batch_size} (or raise training.accumulate={training.accumulate})"
        f"{drawn}{pixels} or {sizes_of('model', config.model)}"
    )


def refuse_untrainable(network: nn.Module, config: Config, image_size: int, num_images: int) -> None:
    """Refuse a network that memory cannot hold, and batches of one that it cannot learn from; warn if it can.

    Args:
        network: As it will be trained: uint8 (B, 3, H, W) -> (B, K).
        config: The run.
        image_size: H = W in pixels, of the data.
        num_images: Of the training split.

    Raises:
        UserError: Training cannot work.
    """
    _refuse_too_large(network, config)
    training = config.training
    num_shares = training.accumulate * training.num_processes
    if largest_batch(num_images, training.batch_size, num_shares) == num_shares:
        _refuse_single_images(network, config, image_size)


def _refuse_too_large(network: nn.Module, config: Config) -> None:
    num_bytes = sum(parameter.numel() * parameter.element_size() for parameter in network.parameters())
    available = total_memory()
    if _COPIES * num_bytes > available:
        raise UserError(
            f"the network's weights take {num_bytes / 1e9:,.1f} GB, in training at least {_COPIES} times that, and "
            f"there are {available / 1e9:,.1f} GB here; lower {sizes_of('model', config.model)}"
        )


def _refuse_single_images(network: nn.Module, config: Config, image_size: int) -> None:
    """Try one image of each size that training will use, on a copy."""
    training = config.training
    advice = (
        f"set training.batch_size={2 * training.accumulate * training.num_processes} or more"
        if training.num_processes * training.accumulate == 1
        else f"training.batch_size={training.batch_size} is split into parts of one; raise it, or lower their number"
    )
    for pixels in {image_size, *(scaled(image_size, stage) for stage in training.resizing)}:
        trial = copy.deepcopy(network).train()
        try:
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                trial(torch.zeros(1, 3, pixels, pixels, dtype=torch.uint8))
        except ValueError as error:
            if "Expected more than 1 value per channel" not in str(error):
                raise
            raise UserError(
                f"this network normalises over the images of a batch, and cannot with one; {advice}"
            ) from error
    if any(hasattr(module, "running_var") for module in network.modules()):
        log.warning("batches of one image: statistics of batch normalisation will be poor; %s", advice)


def _is_size(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(map(_is_size, value))
    return isinstance(value, int) and not isinstance(value, bool)
