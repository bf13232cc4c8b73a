"""The data set that a network was trained on, once in memory for all visitors. Needs PyTorch."""

from typing import TYPE_CHECKING

import streamlit as st

from cifar10.errors import UserError
from cifar10.serving.web.models import Model, has_torch

if TYPE_CHECKING:
    from cifar10.data.image_dataset import ImageDataset


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
