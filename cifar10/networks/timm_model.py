"""Networks of timm (PyTorch Image Models) with the weights that timm publishes: uint8 pixels in, logits out.

Needs the package timm. As in `pretrained`, building one reads no file and downloads nothing.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any

import torch
import torchvision
from torch import Tensor

from cifar10.classifier_names import ClassifierOf
from cifar10.networks.heads import find_head
from cifar10.networks.pretrained_network import PretrainedNetwork, PublishedWeights

_HUB = "https://huggingface.co/{}/resolve/main/{}"


class TimmNetwork(PretrainedNetwork):
    """A network of timm. With other classes than those of its weights, timm makes a new head.

    Args:
        num_classes: K.
        image_size: S.
        name: Of the network, such as `vit_small_patch16_224`, or with the weights behind a dot.
        weights: A file with weights; `none`: random weights; None: those that timm publishes.

    Raises:
        ValueError: timm has no such network or weights, or prepares images in a way that is not supported.
    """

    def __init__(
        self, num_classes: int, image_size: int, name: Annotated[str, ClassifierOf("timm")], weights: str | None = None
    ) -> None:
        published = self.published_weights(name, weights)
        self._create: dict[str, Any] = {"model_name": name, "num_classes": num_classes}
        if image_size != published.image_size:
            self._create["img_size"] = image_size
        super().__init__(self._build(), published, weights)
        self.num_classes = num_classes

    @staticmethod
    def published_weights(name: str, weights: str | None = None) -> PublishedWeights:
        """Return what timm publishes for the same arguments."""
        import timm
        from timm.data.config import resolve_data_config

        if not timm.is_model(name.partition(".")[0]):
            raise ValueError(f"model.name={name}: timm has no such network")
        try:
            config: Any = timm.get_pretrained_cfg(name, allow_unregistered=False)
        except RuntimeError:
            known = ", ".join(timm.list_pretrained(f"{name.partition('.')[0]}.*")) or "none"
            raise ValueError(f"model.name={name}: timm has no such weights; it has {known}") from None
        data: dict[str, Any] = resolve_data_config(pretrained_cfg=config.to_dict())
        if data["crop_mode"] != "center" or data["interpolation"] not in ("bilinear", "bicubic"):
            raise ValueError(f"model.name={name}: its images are prepared in a way that is not supported")
        size = data["input_size"][1]
        url = config.url or ""
        if config.hf_hub_id:
            url = _HUB.format(config.hf_hub_id, config.hf_hub_filename or "model.safetensors")
        imagenet = tuple(torchvision.models.ResNet18_Weights.DEFAULT.meta["categories"])
        return PublishedWeights(
            name=f"{name} of timm",
            url=url,
            file_name=f"timm-{name}-{url.rpartition('/')[2]}",
            sha256="",
            class_names=imagenet if config.num_classes == len(imagenet) else (),
            num_classes=config.num_classes,
            image_size=size,
            resize_size=math.floor(size / data["crop_pct"]),
            interpolation=data["interpolation"],
            mean=tuple(data["mean"]),
            std=tuple(data["std"]),
        )

    def _build(self, **options: Any) -> torch.nn.Module:
        import timm

        try:
            network: torch.nn.Module = timm.create_model(**self._create, **options)
        except TypeError:  # a convolutional network, which takes images of any size
            self._create.pop("img_size", None)
            network = timm.create_model(**self._create, **options)
        return network

    def load_published(self, state_dict: Mapping[str, Tensor]) -> None:
        overlay = {"state_dict": dict(state_dict), "custom_load": False, "source": None}
        try:
            with torch.random.fork_rng(devices=[]):
                weights = self._build(pretrained=True, pretrained_cfg_overlay=overlay).state_dict()
        except (RuntimeError, KeyError) as error:
            reason = str(error).splitlines()[-1].strip().removesuffix(".")
            raise ValueError(f"they are not weights of {self.published.name}: {reason}") from None
        if self.num_classes != self.published.num_classes:
            name, head = find_head(self.network, self.num_classes)
            weights |= {f"{name}.{key}": tensor for key, tensor in head.state_dict().items()}
        self.network.load_state_dict(weights)
