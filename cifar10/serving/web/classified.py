"""One picture classified: decoded and computed once for all visitors, and kept for a while.

Shapes: S x S pixels, K classes.
"""

import hashlib
import io
import threading
import time
from dataclasses import dataclass, replace

import numpy as np
import streamlit as st
from numpy.typing import NDArray
from PIL import Image

from cifar10.images.decode import ImageError, Pixels
from cifar10.inference.image_inputs import square_pixels
from cifar10.inference.prediction import ImageResult, image_results, most_probable
from cifar10.inference.predictor import Predictor
from cifar10.serving.drift import DriftLog
from cifar10.serving.web.models import PageModel

SHOWN_SIDE = 320
"""Pixels of a picture on the page."""
_MOST_KEPT = 300
"""Pictures whose results are kept; each takes some 60 kB."""
_decoding = threading.Semaphore(2)
"""A photo of 50 megapixels takes some 200 MB while it is decoded."""


@dataclass(frozen=True)
class Classified:
    """The result for one picture."""

    result: ImageResult
    """Of all classes; `path` is the name that the visitor's file has."""
    seen: Pixels | None
    """uint8 (S, S, 3): what the network gets; None if the picture cannot be read."""
    shown: bytes
    """JPEG of the same part in more pixels; empty if it cannot be read."""
    seconds: float
    """For decoding and computing."""


def classify(loaded: PageModel, name: str, data: bytes, is_sample: bool = False) -> Classified:
    """Classify the encoded image `data`; if it cannot be read, the result has the reason.

    An image of a visitor is counted for drift when it is computed; a sample of the training data is not.
    """
    digest = hashlib.sha256(data).hexdigest()
    found = _classified(loaded.model.name, loaded.weights_digest, digest, is_sample, loaded, data)
    return replace(found, result=replace(found.result, path=name))


def _compute(
    predictor: Predictor, data: bytes, sha256: str, drift: DriftLog | None
) -> tuple[ImageResult, Pixels | None]:
    """Return the result for an encoded image, with all classes and groups, and the pixels that the network got."""
    provenance = predictor.provenance
    try:
        with _decoding:
            pixels = square_pixels(data, predictor.preprocessing, predictor.reduced)
    except ImageError as error:
        return ImageResult("", (), error=str(error), provenance=provenance), None
    probabilities, unlike = predictor.probabilities_and_unlike(pixels[None])
    if drift is not None:
        drift.add(pixels[None], probabilities, unlike)
    top = most_probable(probabilities, predictor.class_names, predictor.num_classes)
    groups = [None] if predictor.groups is None else predictor.groups.results(probabilities)
    flags = [None] if unlike is None else unlike.tolist()
    [result] = image_results([""], [pixels], [None], zip(top, groups, flags, strict=True), provenance)
    return replace(result, sha256=sha256 if result.error is None else None), pixels


def _picture(data: bytes, predictor: Predictor) -> bytes:
    """Return the part of an image that the network gets, as a JPEG for the page; the image can be read."""
    rule = predictor.preprocessing
    resize_size = None if rule.resize_size is None else round(SHOWN_SIDE * rule.resize_size / rule.image_size)
    with _decoding:
        pixels = square_pixels(data, replace(rule, image_size=SHOWN_SIDE, resize_size=resize_size), reduced=True)
    return encoded(pixels)


def encoded(pixels: NDArray[np.uint8], quality: int = 88) -> bytes:
    """Return pixels, uint8 (H, W, 3), as JPEG."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return file.getvalue()


def enlarged(pixels: NDArray[np.uint8], side: int = SHOWN_SIDE) -> bytes:
    """Return pixels, uint8 (S, S, 3), as a PNG in which each is a square."""
    file = io.BytesIO()
    factor = max(side // len(pixels), 1)
    Image.fromarray(pixels.repeat(factor, axis=0).repeat(factor, axis=1)).save(file, "PNG")
    return file.getvalue()


@st.cache_resource(max_entries=_MOST_KEPT, ttl=3600, show_spinner=False)
def _classified(name: str, weights: str, sha256: str, is_sample: bool, _loaded: PageModel, _data: bytes) -> Classified:
    start = time.perf_counter()
    result, pixels = _compute(_loaded.predictor, _data, sha256, None if is_sample else _loaded.drift)
    seconds = time.perf_counter() - start
    shown = b"" if pixels is None else _picture(_data, _loaded.predictor)
    return Classified(result, pixels, shown, seconds)
