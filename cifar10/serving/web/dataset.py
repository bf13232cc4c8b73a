"""The data set that a network was trained on, once in memory for all visitors. Needs PyTorch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from cifar10.errors import UserError
from cifar10.images.decode import Pixels
from cifar10.serving.web.models import Model, PageModel, has_torch

if TYPE_CHECKING:
    from cifar10.data.image_dataset import ImageDataset

_AT_ONCE = 1000  # images in float32 copies


def trained_data(model: Model) -> "ImageDataset":
    """Return the data of the checkpoint's configuration; nothing is downloaded for a visitor.

    Raises:
        UserError: There is no checkpoint, the data are not here, or PyTorch is not.
    """
    if not has_torch():
        raise UserError("it needs PyTorch, which is not installed here")
    if model.checkpoint is None:
        raise UserError(f"{model.file} does not say where its data are; its checkpoint does")
    return _data(str(model.checkpoint), model.checkpoint.stat().st_mtime_ns, model)


@st.cache_resource(max_entries=1, show_spinner=False)
def _data(file: str, changed: int, _model: Model) -> "ImageDataset":
    from cifar10.data.archives import without_fetching
    from cifar10.runs.checkpoints import load_checkpoint
    from cifar10.runs.trained_data import load_trained_data, without_sources

    assert _model.checkpoint is not None
    checkpoint = load_checkpoint(_model.checkpoint)
    with without_fetching():
        return load_trained_data(checkpoint, without_sources(checkpoint.config.data_loading))


def split_pictures(model: Model, split: str, positions: Sequence[int]) -> list[Pixels]:
    """Return the images at `positions` of a split, each uint8 (S, S, 3); raises as `trained_data` does."""
    images = trained_data(model).splits[split].images
    if not all(0 <= position < images.shape[0] for position in positions):
        raise UserError(f"the {split} split has {images.shape[0]} images, and others are asked for")
    return [np.ascontiguousarray(images[position].permute(1, 2, 0).numpy()) for position in positions]


@dataclass(frozen=True, eq=False)
class SplitAnswers:
    """What a network says about the N images of a split."""

    predicted: NDArray[np.int64]
    """(N,), class ids."""
    confidence: NDArray[np.float32]
    """(N,), the largest probability of each image."""


def answers_of(loaded: PageModel, data: "ImageDataset", split: str) -> SplitAnswers:
    """Return the answers of a network for a split; computed once for all visitors."""
    return _answers(loaded.weights_digest, data.digest, split, loaded, data)


@st.cache_resource(max_entries=6, show_spinner=False)
def _answers(weights: str, data_digest: str, split: str, _loaded: PageModel, _data: "ImageDataset") -> SplitAnswers:
    images, predicted, confidence = _data.splits[split].images, [], []
    for start in range(0, images.shape[0], _AT_ONCE):
        pixels = np.ascontiguousarray(images[start : start + _AT_ONCE].permute(0, 2, 3, 1).numpy())
        probabilities = _loaded.predictor.probabilities(pixels)
        predicted.append(probabilities.argmax(axis=1))
        confidence.append(probabilities.max(axis=1))
    return SplitAnswers(np.concatenate(predicted), np.concatenate(confidence))
