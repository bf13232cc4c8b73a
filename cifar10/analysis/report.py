"""Reports as one HTML file that opens offline: numbers, tables, figures and galleries of images.

Everything is in the file: pictures as data URLs, the style, and a script that sorts tables. All text is escaped, so
names of classes and files cannot become markup.
"""

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import jinja2
import matplotlib.style
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cifar10.data.class_names import printable
from cifar10.files import write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_RESOLUTION = 144  # dots per inch of figures; pages show 96
_LARGE = 1000  # numbers from here on have one decimal instead of three
_SMALL = 100  # pixels: below it, images are enlarged without smoothing
_TEMPLATE = Path(__file__).with_name("report.html.jinja")


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    kind: ClassVar = "text"
    text: str


@dataclass(frozen=True)
class Number:
    """A figure that matters, such as an accuracy."""

    label: str
    value: str
    note: str = ""
    """Its interval, unit or condition."""


@dataclass(frozen=True)
class Numbers:
    """Some figures side by side."""

    kind: ClassVar = "numbers"
    entries: Sequence[Number]


@dataclass(frozen=True)
class Table:
    """A table; a click on the title of a column sorts it.

    Columns in which all cells are numbers are aligned to the right. None is an empty cell.
    """

    kind: ClassVar = "table"
    head: Sequence[str]
    rows: Sequence[Sequence[str | int | float | None]]
    caption: str = ""

    @property
    def is_number(self) -> list[bool]:
        """Whether each column is one of numbers."""
        return [all(_is_number(row[place]) for row in self.rows) for place in range(len(self.head))]


@dataclass(frozen=True)
class Picture:
    """A figure of matplotlib."""

    kind: ClassVar = "picture"
    figure: "Figure"
    description: str
    """What it shows, for those who cannot see it."""
    caption: str = ""

    @property
    def url(self) -> str:
        return _data_url(png_of(self.figure))

    @property
    def width(self) -> int:
        """Pixels on the page."""
        return round(96 * self.figure.get_figwidth())


@dataclass(frozen=True)
class Tile:
    """An image of a gallery."""

    images: Sequence[NDArray[np.uint8]]
    """One or several of the same size, side by side: RGB, (H, W, 3)."""
    title: str
    lines: Sequence[str] = ()

    @property
    def urls(self) -> list[str]:
        return [_data_url(_png_of_pixels(image)) for image in self.images]

    @property
    def is_small(self) -> bool:
        return bool(max(self.images[0].shape) < _SMALL)


@dataclass(frozen=True)
class Gallery:
    """Images with captions."""

    kind: ClassVar = "gallery"
    tiles: Sequence[Tile]
    caption: str = ""


Part = Text | Numbers | Table | Picture | Gallery


@dataclass(frozen=True)
class Section:
    """A part of a report that the table of contents names."""

    title: str
    parts: Sequence[Part]


@dataclass(frozen=True)
class Report:
    """A page."""

    title: str
    subtitle: str
    sections: Sequence[Section]
    origin: Sequence[tuple[str, str]] = ()
    """What was computed, with what and when: key and value, at the end of the page."""

    def html(self) -> str:
        """Return the page."""
        environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
        environment.filters["shown"] = _shown
        return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(report=self)

    def write(self, path: Path) -> None:
        """Write the page to a file, atomically."""
        write_text(path, self.html())


def png_of(figure: "Figure") -> bytes:
    """Return a figure as a PNG file; a `matplotlibrc` of the user has no effect."""
    file = io.BytesIO()
    with matplotlib.style.context("default"):
        figure.savefig(file, dpi=_RESOLUTION, format="png")
    return file.getvalue()


def _png_of_pixels(pixels: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def _data_url(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _shown(cell: str | int | float | None) -> str:
    if cell is None:
        return ""
    if isinstance(cell, str):
        return printable(cell)
    if isinstance(cell, int) or not math.isfinite(cell):
        return f"{cell:,}"
    return f"{cell:.3f}" if abs(cell) < _LARGE else f"{cell:,.1f}"


def _is_number(cell: str | int | float | None) -> bool:
    """Whether a cell is a number, perhaps with a sign, a unit or an interval behind it, or empty."""
    return not isinstance(cell, str) or not cell.strip() or cell.strip().lstrip("+-−–±")[:1].isdigit()
