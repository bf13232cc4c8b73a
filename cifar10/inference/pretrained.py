"""A pretrained network as a model for inference, and as a checkpoint in memory that can be exported."""

from pathlib import Path
from typing import Any

from cifar10.config.build import build
from cifar10.config.compose import load_config
from cifar10.config.schema import Component, EvaluationConfig
from cifar10.config.targets import MODEL
from cifar10.devices import choose_device, limit_threads
from cifar10.errors import UsageError
from cifar10.inference.description import LoadedModel, ModelDescription
from cifar10.inference.engines.pytorch import TorchEngine
from cifar10.networks.pretrained_network import PretrainedNetwork, PublishedWeights
from cifar10.runs.checkpoint_metadata import FORMAT, UNKNOWN_DATA, Metadata
from cifar10.runs.checkpoints import Checkpoint
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
    network, published, file = _build(component)
    description = ModelDescription.of(_checkpoint(component, network, published, file))
    return LoadedModel(TorchEngine(network, chosen, channels_last=True), description), published.name


def pretrained_checkpoint(component: Component) -> Checkpoint:
    """Return a network with its published weights as a checkpoint; arguments and errors as of `load_pretrained`."""
    return _checkpoint(component, *_build(component))


def _build(component: Component) -> tuple[PretrainedNetwork, PublishedWeights, Path]:
    """Return the network with all of its published classes, in evaluation mode, and the file of its weights."""
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
    file = load_pretrained_weights(network)
    if file is None:
        raise UsageError(f"{published.name}: model.weights=none leaves random weights, which predict nothing")
    network.eval()
    return network, published, file


def _checkpoint(
    component: Component, network: PretrainedNetwork, published: PublishedWeights, file: Path
) -> Checkpoint:
    evaluation = EvaluationConfig(batch_size=_BATCH_SIZE, tta="none")
    config = load_config().model_copy(update={"model": component, "evaluation": evaluation})
    metadata = Metadata(
        format=FORMAT,
        class_names=list(published.class_names),
        image_size=published.image_size,
        resize_size=published.resize_size,
        interpolation=published.interpolation,
        data_digest=UNKNOWN_DATA,
        precision="fp32",
        history=[],
    )
    return Checkpoint(file, config, metadata, network.state_dict())
