"""Checks before the first step: images, network, batch size and memory fit; errors name the settings to change."""

import copy
import importlib.util
import itertools
import logging
import sys
from typing import Any

import torch
from torch import nn

from cifar10.config.build import build
from cifar10.config.schema import Component, Config
from cifar10.config.targets import MODEL, SELECTION, Role
from cifar10.data.image_dataset import ImageDataset
from cifar10.errors import UsageError, UserError, first_line
from cifar10.networks.heads import find_head
from cifar10.system.limits import total_memory
from cifar10.system.streams import print_message
from cifar10.training.batches import largest_batch
from cifar10.training.mirroring import measure_mirroring
from cifar10.training.resizing import scaled
from cifar10.wording import counted

log = logging.getLogger(__name__)

_MOST_FILLED, _MOST_SIDE = 30_000_000, 64  # numbers in a network, and pixels a side, that are tried with real images
_COPIES = 3  # of each weight, at least, in training: the weight, its gradient and one moment
_MOST_LEFT = 0.1  # fraction of the training images that an epoch may leave out without a note


def require_tensorboard(config: Config) -> None:
    """Refuse to go on without the package tensorboard if the run is to write its files.

    Raises:
        UsageError: The package is missing.
    """
    if config.tracking.tensorboard and importlib.util.find_spec("tensorboard") is None:
        line = f"{sys.executable} -m pip install 'tensorboard>=2.18'"
        raise UsageError(f"tracking.tensorboard=true needs a package: {line}")


def refuse_unfit(config: Config, data: ImageDataset) -> None:
    """Refuse a configuration that would fail on these data during the run.

    Raises:
        UsageError: There are no images to validate on, too few to train on, the images are smaller than the border
            around them, or the network does not accept them.
    """
    training = config.training
    if training.monitor is not None and not len(data.validation):
        raise UsageError(
            f"training.monitor={training.monitor} needs validation images: set the validation size of "
            "data_loading above 0, or training.monitor=null"
        )
    try:
        largest_batch(len(data.train), training.batch_size, _num_shares(config))
    except ValueError as error:
        raise UsageError(f"{error}; lower training.accumulate or training.devices") from None
    if config.augmentation.crop_padding >= data.image_size:
        raise UsageError(
            f"augmentation.crop_padding={config.augmentation.crop_padding} is a border of reflected pixels, of which "
            f"images of {data.image_size} pixels have {data.image_size - 1} at most; lower it"
        )
    sizes = [(data.image_size, f"choose another model than {config.model.target} and selection=all")]
    sizes += [(scaled(data.image_size, stage), "set training.resizing=[]") for stage in training.resizing]
    for pixels, advice in sizes:
        try:
            for role, component in ((MODEL, config.model), (SELECTION, config.selection)):
                _build(role, component, data.num_classes, pixels)
            _try_network(config.model, data, pixels)
        except ValueError as error:
            raise UsageError(f"training would need images of {pixels} pixels: {error}; {advice}") from error


def tell_batches(config: Config, data: ImageDataset) -> None:
    """Print a note if batches are smaller than configured, or leave many images out of each epoch."""
    num_images, num_shares, configured = len(data.train), _num_shares(config), config.training.batch_size
    size = largest_batch(num_images, configured, num_shares)
    if size < configured:
        print_message(
            f"note: the training split has {counted(num_images, 'image')}, so each step trains on {size:,} of them, "
            f"not on training.batch_size={configured}"
        )
    num_left = num_images % size
    if num_left > _MOST_LEFT * num_images:
        one_more = num_images // (num_images // size + 1)  # the batch size for one more step
        advice = max(one_more - one_more % num_shares, num_shares)
        print_message(
            f"note: each epoch trains on {num_images - num_left:,} of the {num_images:,} training images, in whole "
            f"batches of {size:,}, and leaves others out each time; with training.batch_size={advice} it would leave "
            f"out {num_images % advice:,}"
        )


def warn_of_mirroring(config: Config, data: ImageDataset) -> None:
    """Warn if mirrored images are trained or tested on, and the class depends on left and right in these data."""
    mirrors = config.augmentation.flip != "none" or config.evaluation.tta != "none"
    result = measure_mirroring(data) if mirrors and not data.is_mirrorable else None
    if result is not None and result.matters:
        print_message(
            "warning: left and right seem to matter in these data: the nearest training image is of the right class "
            f"for {result.plain:.0%} of the images and {result.mirrored:.0%} of their mirror images; train without "
            "mirroring: augmentation.flip=none evaluation.tta=none"
        )


def refuse_headless(network: nn.Module, config: Config, num_classes: int) -> None:
    """Refuse to freeze all but the head of a network that has none.

    Raises:
        UsageError: It has no last linear layer.
    """
    if config.probe is None and not config.training.freeze_until:
        return
    try:
        find_head(network, num_classes)
    except ValueError as error:
        raise UsageError(f"{error}; choose another model, or training.freeze_until=0 probe=null") from None


def refuse_untrainable(network: nn.Module, config: Config, image_size: int, num_images: int) -> None:
    """Refuse a network that does not fit into memory or cannot train on batches of one; warn if it trains badly.

    Args:
        network: The network to train: uint8 (B, 3, H, W) -> (B, K).
        config: The run.
        image_size: H = W in pixels.
        num_images: Number of training images.

    Raises:
        UserError: Training cannot work.
    """
    num_bytes = sum(parameter.numel() * parameter.element_size() for parameter in network.parameters())
    available = total_memory()
    if _COPIES * num_bytes > available:
        raise UserError(
            f"the network's weights take {num_bytes / 1e9:,.1f} GB, in training at least {_COPIES} times that, and "
            f"there are {available / 1e9:,.1f} GB here; lower {sizes_of('model', config.model)}"
        )
    if largest_batch(num_images, config.training.batch_size, _num_shares(config)) == _num_shares(config):
        _refuse_single_images(network, config, image_size)


def sizes_of(section: str, component: Component) -> str:
    """Return the arguments of `component` that are whole numbers or lists of them, as overrides: `model.width=64`."""
    sizes = [f"{section}.{name}={value}" for name, value in component.arguments.items() if _is_size(value)]
    return ", ".join(sizes).replace("[", "'[").replace("]", "]'") or section


def training_advice(config: Config) -> str:
    """Return the settings to lower if memory runs out in training."""
    training, data = config.training, config.data_loading.arguments
    pixels = f"data_loading.image_size={data['image_size']}" if "image_size" in data else "the images' size"
    return (
        f"lower training.batch_size={training.batch_size} (or raise training.accumulate={training.accumulate}), "
        f"{pixels} or {sizes_of('model', config.model)}"
    )


def _num_shares(config: Config) -> int:
    """Return the number of micro-batches in one optimizer step, over all processes."""
    return config.training.accumulate * config.training.num_processes


def _build(role: Role, component: Component, num_classes: int, image_size: int) -> nn.Module:
    """Build without memory for the parameters, or with it if a network reads its own initial weights."""
    sizes = {"num_classes": num_classes, "image_size": image_size}
    try:
        with torch.device("meta"):
            return build(role, component, **sizes)  # type: ignore[no-any-return]
    except NotImplementedError:
        return build(role, component, **sizes)  # type: ignore[no-any-return]


def _try_network(component: Component, data: ImageDataset, pixels: int) -> None:
    """Raise ValueError if the network cannot compute one number per class for images with sides of `pixels`."""
    network = _build(MODEL, component, data.num_classes, data.image_size).eval()
    if not callable(getattr(network, "calibrate", None)):
        raise UsageError(
            f"{component.target} has no calibrate(images), which every network must have; see docs/add_a_part.md"
        )
    if pixels <= _MOST_SIDE:
        _fill_if_small(network)
    device = next((parameter.device for parameter in network.parameters()), torch.device("meta"))
    images = torch.zeros(2, 3, pixels, pixels, dtype=torch.uint8, device=device)
    try:
        with torch.no_grad():
            logits = network(images)
    except NotImplementedError:  # an operation that has no shape function
        return
    except (RuntimeError, IndexError) as error:
        raise ValueError(first_line(error)) from error
    if not isinstance(logits, torch.Tensor) or logits.shape != (2, data.num_classes):
        shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise ValueError(f"the output for two images is {shape}, and should be (2, {data.num_classes})")


def _fill_if_small(network: nn.Module) -> None:
    """Give a small network zeros for weights that have no memory.

    PyTorch computes shapes without memory in Python, which imports SymPy: that takes longer than computing two images.
    """
    tensors = dict(itertools.chain(network.named_parameters(remove_duplicate=False), network.named_buffers()))
    is_small = sum(tensor.numel() for tensor in tensors.values()) <= _MOST_FILLED
    if not is_small or not all(tensor.is_meta for tensor in tensors.values()):
        return
    zeros = {name: torch.zeros(tensor.shape, dtype=tensor.dtype) for name, tensor in tensors.items()}
    for name in zeros.keys() - network.state_dict().keys():  # buffers that are not saved
        owner, _, attribute = name.rpartition(".")
        setattr(network.get_submodule(owner), attribute, zeros.pop(name))
    network.load_state_dict(zeros, assign=True)


def _refuse_single_images(network: nn.Module, config: Config, image_size: int) -> None:
    """Try one image of each size that training will use, on a copy."""
    advice = "set training.batch_size=2 or more"
    if _num_shares(config) > 1:
        configured = config.training.batch_size
        advice = f"training.batch_size={configured} is split into parts of one; raise it, or lower their number"
    for pixels in {image_size, *(scaled(image_size, stage) for stage in config.training.resizing)}:
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
