"""Classifiers of `torchvision.models` with torchvision's own weights: uint8 pixels in, logits out.

Building one never reads a file or downloads anything: its weights are random until `load_published` is called. So a
checkpoint of a fine-tuned network is rebuilt from its configuration and its own weights.

Shapes: B images of S x S pixels, K classes.
"""

import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import PurePath
from typing import Annotated, Any
from urllib.parse import urlsplit

import torchvision
from torch import Tensor, nn
from torchvision.models import WeightsEnum
from torchvision.models.squeezenet import SqueezeNet
from torchvision.models.vision_transformer import VisionTransformer, interpolate_embeddings

from cifar10.classifier_names import ClassifierOf
from cifar10.networks.heads import find_head
from cifar10.networks.pretrained_network import PretrainedNetwork, PublishedWeights
from cifar10.networks.published import with_pixel_input

_HASH = re.compile(r"-([0-9a-f]{8,64})\.")  # as in resnet152-f82ba261.pth: the first digits of the SHA-256
_OLD_DENSENET_KEY = re.compile(r"(.*denselayer\d+\.(?:norm|conv))\.([12]\..*)")  # denselayer1.norm.1.weight
_AUXILIARY = ("AuxLogits.", "aux1.", "aux2.")  # classifiers that only the training of Inception and GoogLeNet uses


class TorchvisionNetwork(PretrainedNetwork):
    """A classifier of torchvision. With other classes than those of its weights, the head is a new linear layer.

    Args:
        num_classes: K.
        image_size: S.
        name: Of the classifier, such as `resnet152`.
        weights: A file with weights; `none`: random weights; None: those that torchvision publishes.
        version: Of the published weights, such as `IMAGENET1K_V2`; it also decides how images are prepared. None: the
            version of the file `weights`, where torchvision publishes one of that name, or else the best.

    Raises:
        ValueError: torchvision has no such classifier or version.
    """

    def __init__(
        self,
        num_classes: int,
        image_size: int,
        name: Annotated[str, ClassifierOf("torchvision")],
        weights: str | None = None,
        version: str | None = None,
    ) -> None:
        published = self.published_weights(name, weights, version)
        network = with_pixel_input(torchvision.models.get_model_builder(name))(num_classes, image_size).network
        if hasattr(network, "transform_input"):  # the weights of GoogLeNet and Inception need other statistics
            setattr(network, "transform_input", True)  # noqa: B010 - mypy takes every attribute for a tensor
        self._published_head, _ = find_head(network, num_classes)
        self._is_new_head = num_classes != published.num_classes
        if self._is_new_head and isinstance(network, SqueezeNet):
            network.classifier = _linear_classifier(network, num_classes)
        super().__init__(network, published, weights)
        self.num_classes = num_classes
        self.image_size = image_size

    @staticmethod
    def published_weights(name: str, weights: str | None = None, version: str | None = None) -> PublishedWeights:
        """Return what torchvision publishes for the same arguments."""
        if name not in torchvision.models.list_models(module=torchvision.models):
            raise ValueError(f"model.name={name}: torchvision has no such classifier")
        versions = torchvision.models.get_model_weights(name)
        chosen: Any = versions.DEFAULT
        if version is not None:
            if version not in versions.__members__:
                raise ValueError(f"model.version={version}: {name} has {', '.join(one.name for one in versions)}")
            chosen = versions[version]
        elif weights is not None:
            chosen = next(
                (one for one in versions if _published(name, one).file_name == PurePath(weights).name), chosen
            )
        return _published(name, chosen)

    def load_published(self, state_dict: Mapping[str, Tensor]) -> None:
        weights = OrderedDict(state_dict)
        for key in state_dict:
            is_head = self._is_new_head and key.startswith(f"{self._published_head}.")
            if is_head or key.startswith(_AUXILIARY):
                del weights[key]
            elif renamed := _OLD_DENSENET_KEY.fullmatch(key):
                weights[renamed[1] + renamed[2]] = weights.pop(key)
        if isinstance(self.network, VisionTransformer) and "encoder.pos_embedding" in weights:
            weights = interpolate_embeddings(self.image_size, self.network.patch_size, weights)
        if self._is_new_head:
            name, head = find_head(self.network, self.num_classes)
            weights.update({f"{name}.{key}": tensor for key, tensor in head.state_dict().items()})
        if hasattr(state_dict, "_metadata"):  # versions of layers, which MNASNet needs
            setattr(weights, "_metadata", state_dict._metadata)  # noqa: B010
        try:
            self.network.load_state_dict(weights)
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip().removesuffix(".")
            raise ValueError(f"they are not weights of {self.published.name.split()[0]}: {reason}") from None


def _linear_classifier(network: SqueezeNet, num_classes: int) -> nn.Sequential:
    """Return a linear layer behind pooling. SqueezeNet's own classifier applies ReLU to its outputs and then pools."""
    dropout, convolution = network.classifier[0], network.classifier[1]
    linear = nn.Linear(convolution.in_channels, num_classes)
    return nn.Sequential(dropout, nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear)


def _published(name: str, weights: WeightsEnum) -> PublishedWeights:
    transforms, names = weights.transforms(), tuple(weights.meta["categories"])
    digits = _HASH.search(weights.url)
    return PublishedWeights(
        name=f"{name} {weights.name}",
        url=weights.url,
        file_name=PurePath(urlsplit(weights.url).path).name,
        sha256=digits[1] if digits else "",
        class_names=names,
        num_classes=len(names),
        image_size=transforms.crop_size[0],
        resize_size=transforms.resize_size[0],
        interpolation=transforms.interpolation.value,
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
    )
