"""Checks before the first step: the network accepts the images, in every size that training uses."""

import sys

import torch
from torch import nn

from cifar10.config.build import build
from cifar10.config.schema import Component, Config
from cifar10.config.targets import MODEL, SELECTION, Role
from cifar10.data.image_dataset import ImageDataset
from cifar10.errors import UsageError, first_line
from cifar10.training.batches import largest_batch
from cifar10.training.mirroring import measure_mirroring
from cifar10.training.resizing import scaled
from cifar10.wording import counted

_MOST_LEFT = 0.1  # of the training images that an epoch may leave out without a word


def refuse_unfit(config: Config, data: ImageDataset) -> None:
    """Refuse a configuration that would fail on these data in mid-run.

    Raises:
        UsageError: There is nothing to validate on, too little to learn from, the images are smaller than the border
            around them, or the network does not take them.
    """
    if config.training.monitor is not None and not len(data.validation):
        raise UsageError(
            f"training.monitor={config.training.monitor} needs validation images: set the validation size of "
            "data_loading above 0, or training.monitor=null"
        )
    try:
        largest_batch(len(data.train), config.training.batch_size, _num_shares(config))
    except ValueError as error:
        raise UsageError(f"{error}; lower training.accumulate or training.devices") from None
    if config.augmentation.crop_padding >= data.image_size:
        raise UsageError(
            f"augmentation.crop_padding={config.augmentation.crop_padding} is a border of reflected pixels, of which "
            f"images of {data.image_size} pixels have {data.image_size - 1} at most; lower it"
        )
    sizes = [(data.image_size, f"choose another model than {config.model.target} and selection=all")]
    sizes += [(scaled(data.image_size, stage), "set training.resizing=[]") for stage in config.training.resizing]
    for pixels, advice in sizes:
        try:
            for role, component in ((MODEL, config.model), (SELECTION, config.selection)):
                _build(role, component, data.num_classes, pixels)
            _try_network(config.model, data, pixels)
        except ValueError as error:
            raise UsageError(f"training would need images of {pixels} pixels: {error}; {advice}") from error


def tell_batches(config: Config, data: ImageDataset) -> None:
    """Say so if batches are smaller than configured, or leave many images out of each epoch."""
    training, num_images, num_shares = config.training, len(data.train), _num_shares(config)
    size = largest_batch(num_images, training.batch_size, num_shares)
    if size < training.batch_size:
        print(
            f"note: the training split has {counted(num_images, 'image')}, so each step learns from {size:,} of them, "
            f"not from training.batch_size={training.batch_size}",
            file=sys.stderr,
        )
    num_left = num_images % size
    if num_left > _MOST_LEFT * num_images:
        one_more = num_images // (num_images // size + 1)  # as many as fill one step more
        advice = max(one_more - one_more % num_shares, num_shares)
        print(
            f"note: each epoch learns from {num_images - num_left:,} of the {num_images:,} training images, in whole "
            f"batches of {size:,}, and leaves others out each time; with training.batch_size={advice} it would leave "
            f"out {num_images % advice:,}",
            file=sys.stderr,
        )


def _num_shares(config: Config) -> int:
    """Return the micro-batches that one optimizer step is made of, over all processes."""
    return config.training.accumulate * config.training.num_processes


def warn_of_mirroring(config: Config, data: ImageDataset) -> None:
    """Say so if mirrored images are trained or tested on, and the class depends on left and right in these data."""
    trains, tests = config.augmentation.flip != "none", config.evaluation.tta != "none"
    if data.is_mirrorable or not (trains or tests):
        return
    result = measure_mirroring(data)
    if result is not None and result.matters:
        print(
            "warning: left and right seem to matter in these data: the nearest training image is of the right class "
            f"for {result.plain:.0%} of the images and {result.mirrored:.0%} of their mirror images; train without "
            "mirroring: augmentation.flip=none evaluation.tta=none",
            file=sys.stderr,
        )


def _build(role: Role, component: Component, num_classes: int, image_size: int) -> nn.Module:
    """Build without memory for the parameters, or with it if a network looks at its own first weights."""
    try:
        with torch.device("meta"):
            made: nn.Module = build(role, component, num_classes=num_classes, image_size=image_size)
    except NotImplementedError:
        made = build(role, component, num_classes=num_classes, image_size=image_size)
    return made


def _try_network(component: Component, data: ImageDataset, pixels: int) -> None:
    """Let the network compute shapes for two images with sides of `pixels`.

    Raises:
        ValueError: It cannot, or its output is not one number for each class.
    """
    network = _build(MODEL, component, data.num_classes, data.image_size).eval()
    if not callable(getattr(network, "calibrate", None)):
        raise UsageError(
            f"{component.target} has no calibrate(images), which every network needs; see docs/add_a_part.md"
        )
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
