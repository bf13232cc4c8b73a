"""A pretrained network as a model for inference, without a checkpoint."""

from typing import Any

from cifar10.config.build import build
from cifar10.config.schema import Component
from cifar10.config.targets import MODEL
from cifar10.devices import choose_device, limit_threads
from cifar10.errors import UsageError
from cifar10.inference.description import LoadedModel, ModelDescription
from cifar10.inference.engines.pytorch import TorchEngine
from cifar10.networks.pretrained import PretrainedNetwork, PublishedWeights
from cifar10.runs.checkpoints import digest_of
from cifar10.runs.pretrained_weights import load_pretrained_weights

_BATCH_SIZE = 32  # of 224 pixels: ResNet-152 computes them in less than 1 GB


def load_pretrained(component: Component, device: str = "auto") -> tuple[LoadedModel, str]:
    """Load a network with its published weights, and return it with their name.

    Args:
        component: A target of the role MODEL that has published weights.
        device: auto (a GPU if there is one), cpu, cuda or cuda:N.

    Raises:
        UsageError: There are no such weights, or their classes have no names; the device is not there.
        UserError: The weights cannot be read or downloaded.
    """
    chosen = choose_device(device)
    limit_threads()
    network, published = build_pretrained(component)
    engine = TorchEngine(network, chosen, channels_last=True)
    return LoadedModel(engine, describe(network, published)), published.name


def build_pretrained(component: Component) -> tuple[PretrainedNetwork, PublishedWeights]:
    """Return the network with all of its published classes, its weights loaded, in evaluation mode; errors as above."""
    target: Any = MODEL.locate(component.target)
    try:
        published: PublishedWeights = target.published_weights(**component.arguments)
        sizes = {"num_classes": published.num_classes, "image_size": published.image_size}
        network: PretrainedNetwork = build(MODEL, component, **sizes)
    except ValueError as error:
        raise error if isinstance(error, UsageError) else UsageError(str(error)) from None
    if not published.class_names:
        known = f"the {published.num_classes:,} classes of {published.name} have no names"
        raise UsageError(f"{known}; it can be fine-tuned, but not used as it is")
    load_pretrained_weights(network)
    network.eval()
    return network, published


def describe(network: PretrainedNetwork, published: PublishedWeights) -> ModelDescription:
    """Return the description of `network`."""
    return ModelDescription(
        class_names=list(published.class_names),
        image_size=published.image_size,
        resize_size=published.resize_size,
        interpolation=published.interpolation,
        batch_size=_BATCH_SIZE,
        tta="none",
        tta_confidence=0.0,
        weights_digest=digest_of(network.state_dict()),
        data_digest="",
    )
