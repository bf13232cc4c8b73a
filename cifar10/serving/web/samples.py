"""Sample pictures: test images of the data set of a network, or drawn ones where the data set is not here."""

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import streamlit as st
from PIL import Image, ImageDraw

from cifar10.errors import UserError
from cifar10.serving.web.dataset import trained_data
from cifar10.serving.web.models import PageModel

_DRAWN_SIDE = 96


@dataclass(frozen=True)
class Samples:
    """Pictures to try a network with."""

    data: str
    """Name of the data set; empty if they are drawn."""
    pictures: tuple[tuple[str, bytes], ...]
    """Name and PNG."""


def sample_pictures(loaded: PageModel, number: int, turn: int) -> Samples:
    """Return `number` test images; each `turn` has others."""
    try:
        return _from_data(loaded.weights_digest, number, turn, loaded)
    except UserError:  # no PyTorch, no checkpoint, or the data are elsewhere
        return _drawn(number, turn)


@st.cache_resource(max_entries=20, show_spinner=False)
def _from_data(weights: str, number: int, turn: int, _loaded: PageModel) -> Samples:
    data = trained_data(_loaded.model)
    split = data.test if len(data.test) else data.train
    chosen = np.random.default_rng(turn).choice(len(split), min(number, len(split)), replace=False)
    pictures = []
    for position in chosen.tolist():
        name = data.class_names[int(split.labels[position])]
        pixels = np.ascontiguousarray(split.images[position].permute(1, 2, 0).numpy())
        pictures.append((f"{name}_{position:05}.png", _png(Image.fromarray(pixels))))
    return Samples(data.name, tuple(pictures))


def _drawn(number: int, turn: int) -> Samples:
    random = np.random.default_rng(turn)
    pictures = []
    for position in range(number):
        name, draw = list(_DRAWINGS.items())[position % len(_DRAWINGS)]
        back, front = (tuple(random.integers(low, low + 100, 3).tolist()) for low in (20, 140))
        image = Image.new("RGB", (_DRAWN_SIDE, _DRAWN_SIDE), back)
        draw(ImageDraw.Draw(image), front)
        pictures.append((f"{name}_{turn}_{position}.png", _png(image)))
    return Samples("", tuple(pictures))


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


_DRAWINGS: dict[str, Callable[[ImageDraw.ImageDraw, tuple[int, ...]], None]] = {
    "disk": lambda canvas, colour: canvas.ellipse((24, 24, 72, 72), fill=colour),
    "square": lambda canvas, colour: canvas.rectangle((24, 24, 72, 72), fill=colour),
    "triangle": lambda canvas, colour: canvas.polygon([(48, 20), (76, 72), (20, 72)], fill=colour),
    "ring": lambda canvas, colour: canvas.ellipse((22, 22, 74, 74), outline=colour, width=10),
}
