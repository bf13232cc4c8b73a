"""The pretrained network of *Cats and dogs*, loaded once for all visitors."""

from dataclasses import dataclass
from pathlib import Path

import streamlit as st

from cifar10.config.pretrained_model import pretrained_model
from cifar10.errors import UserError
from cifar10.inference.predictor import Predictor
from cifar10.serving.web.models import LOADING, Model, PageModel
from cifar10.serving.web.settings import read_settings

_NETWORKS = (
    *("resnet152_imagenet", "resnet50_imagenet", "resnet18_imagenet", "efficientnet_b0_imagenet"),
    *("mobilenet_v3_large_imagenet", "squeezenet1_1_imagenet"),
)
"""Of torchvision, from the most accurate to the smallest, as *Cats and dogs* offers them."""


@dataclass(frozen=True)
class PretrainedChoice:
    """A pretrained network, and the groups of its classes."""

    name: str
    """As in `model=NAME`."""
    weights: str | None
    """A file of its weights, or an ONNX file that `export` has written; None: published ones, which are downloaded."""
    grouping: str
    others: tuple[str, ...] = ()
    """Further overrides that the page was started with."""

    @classmethod
    def configured(cls) -> "PretrainedChoice":
        """Return the network that the page was started with."""
        settings = read_settings()
        given = dict(override.partition("=")[::2] for override in settings.cats_model)
        name = given.pop("model", _NETWORKS[0])
        weights = given.pop("model.weights", None)
        return cls(name, weights, settings.cats_grouping, tuple(f"{key}={value}" for key, value in given.items()))

    @classmethod
    def names(cls) -> list[str]:
        """Return the networks to choose from, the configured one first."""
        first = cls.configured().name
        return [first, *(name for name in _NETWORKS if name != first)]

    @property
    def is_exported(self) -> bool:
        """Whether ONNX Runtime computes it, so that PyTorch is not needed."""
        return self.weights is not None and self.weights.endswith(".onnx")


def load_pretrained(choice: PretrainedChoice) -> PageModel:
    """Return the network with its groups.

    Raises:
        UserError: Its weights cannot be read or downloaded, or the groups are for other classes.
    """
    file = Path(choice.weights) if choice.weights else None
    if file is not None and not file.is_file():
        raise UserError(f"there is no file {file}")
    return _loaded(choice, 0 if file is None else file.stat().st_mtime_ns)


@st.cache_resource(max_entries=1, show_spinner=False)
def _loaded(choice: PretrainedChoice, changed: int) -> PageModel:
    with LOADING:  # configurations are composed, which only one thread may do at a time
        if choice.is_exported and choice.weights is not None:
            predictor = Predictor.from_checkpoint(Path(choice.weights))
        else:
            overrides = [f"model={choice.name}", *choice.others]
            predictor = Predictor.from_pretrained(pretrained_model(overrides, choice.weights))
    predictor = predictor.with_grouping(choice.grouping)
    return PageModel(Model(f"{choice.name}, {choice.grouping}", Path(predictor.origin["checkpoint"])), predictor)
