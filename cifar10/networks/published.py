"""Classifiers of `torchvision.models` that take uint8 pixels, normalised by their own statistics.

Each has random weights, and the classes and the image size of the data. Its settings are those of torchvision's class
that are numbers or switches, such as `dropout`, `groups` or `width_per_group`.
"""

import inspect
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, get_type_hints

from torch import Tensor, nn

from cifar10.networks.normalize import Normalize

_PLAIN_TYPES = (bool, int, float)
_SET_HERE = ("num_classes", "image_size", "input_size", "aux_logits", "init_weights", "transform_input")


class PixelNetwork(nn.Module):
    """A network for normalised images, behind `Normalize`.

    Args:
        network: float (B, 3, H, W), about zero mean and unit variance -> logits (B, K).
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.normalize = Normalize()
        self.network = network

    def calibrate(self, images: Tensor) -> None:
        """Take the pixel statistics from the training images, uint8 (N, 3, H, W)."""
        self.normalize.calibrate(images)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load weights; without the versions of layers, as in a checkpoint, they are of the current ones.

        MNASNet refuses weights whose version is not known.
        """
        if not hasattr(state_dict, "_metadata"):
            state_dict = OrderedDict(state_dict)
            setattr(state_dict, "_metadata", self.state_dict()._metadata)  # type: ignore[attr-defined]  # noqa: B010
        return super().load_state_dict(state_dict, strict, assign)

    def forward(self, images: Tensor) -> Tensor:  # (B, 3, H, W) -> (B, K)
        logits: Tensor = self.network(self.normalize(images))
        return logits


def with_pixel_input(builder: Callable[..., nn.Module]) -> Callable[..., PixelNetwork]:
    """Return a function that builds `builder`'s model as a `PixelNetwork`.

    Args:
        builder: Of `torchvision.models`, such as `resnet18`.

    Returns:
        A function with the parameters `num_classes`, `image_size` and the settings of the model's class that are
        numbers or switches. It raises ValueError if the model cannot be built so.
    """
    model_class = get_type_hints(builder)["return"]
    class_parameters = inspect.signature(model_class).parameters
    settings = _settings(model_class)

    def build_network(num_classes: int, image_size: int, **chosen: Any) -> PixelNetwork:
        # With the auxiliary classifiers of GoogLeNet and Inception the output is a tuple, and images need 224 pixels.
        ours = {
            "image_size": image_size,
            "input_size": (image_size, image_size),
            "aux_logits": False,
            "init_weights": True,
        }
        fixed = {name: value for name, value in ours.items() if name in class_parameters}
        try:
            return PixelNetwork(builder(weights=None, num_classes=num_classes, **fixed, **chosen))
        except TypeError as error:  # a setting that torchvision's function fixes itself
            reason = str(error).rpartition("() ")[2]
            raise ValueError(f"torchvision.models.{builder.__name__}: {reason}") from None

    sizes = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=int) for name in _SET_HERE[:2]]
    build_network.__signature__ = inspect.Signature([*sizes, *settings])  # type: ignore[attr-defined]
    build_network.__annotations__ = {parameter.name: parameter.annotation for parameter in (*sizes, *settings)}
    build_network.__module__, build_network.__name__ = builder.__module__, builder.__name__
    return build_network


def _settings(model_class: type[nn.Module]) -> list[inspect.Parameter]:
    hints = get_type_hints(model_class.__init__)
    return [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[parameter.name])
        for parameter in inspect.signature(model_class).parameters.values()
        if hints.get(parameter.name) in _PLAIN_TYPES
        and isinstance(parameter.default, _PLAIN_TYPES)
        and parameter.name not in _SET_HERE
    ]
