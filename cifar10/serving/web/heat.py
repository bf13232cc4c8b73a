"""Where the network sees its answer: Grad-CAM, where PyTorch and a checkpoint are there."""

from typing import Any

import numpy as np
import streamlit as st
from numpy.typing import NDArray
from PIL import Image

from cifar10.images.decode import Pixels
from cifar10.serving.web.classified import SHOWN_SIDE, encoded
from cifar10.serving.web.models import PageModel


def heat_picture(loaded: PageModel, pixels: Pixels, class_id: int, sha256: str) -> bytes | None:
    """Return a picture of what the network got, bright where it speaks for the class, as JPEG.

    Args:
        loaded: The network; `loaded.may_have_network` is True.
        pixels: uint8 (S, S, 3).
        class_id: The class.
        sha256: Of the encoded image.

    Returns:
        None if the network has no feature map.
    """
    return _heat(loaded.weights_digest, sha256, class_id, loaded, pixels)


@st.cache_resource(max_entries=100, ttl=3600, show_spinner=False)
def _heat(weights: str, sha256: str, class_id: int, _loaded: PageModel, _pixels: Pixels) -> bytes | None:
    import torch

    from cifar10.analysis.grad_cam import grad_cam, last_feature_map, overlay

    images: Any = torch.from_numpy(_pixels.copy()).permute(2, 0, 1)[None]
    with _loaded.lock:
        if _loaded.network is None:
            return None
        layer = last_feature_map(_loaded.network, images)
        if layer is None:
            return None
        heat: NDArray[np.float32] = grad_cam(_loaded.network, layer, images, [class_id])[0]
    side = (SHOWN_SIDE, SHOWN_SIDE)
    large = np.asarray(Image.fromarray(_pixels).resize(side, Image.Resampling.BICUBIC))
    smooth = np.asarray(Image.fromarray(heat).resize(side, Image.Resampling.BILINEAR))
    return encoded(overlay(large, smooth))
