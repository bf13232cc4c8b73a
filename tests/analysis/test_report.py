"""Reports are single files: escaped, complete, and readable without a network."""

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from cifar10.analysis.report import Gallery, Number, Numbers, Part, Picture, Report, Section, Table, Text, Tile

PIXELS = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)


def a_report(name: str = "cat") -> Report:
    figure = Figure(figsize=(2, 1))
    figure.subplots().plot([0, 1])
    parts: list[Part] = [
        Text(f"About {name}."),
        Numbers([Number(name, "93.2 %", "92.7 to 93.7 %")]),
        Table(["class", name, "share", "gain"], [[name, 1234, 0.5, "+0.1"], ["dog", None, 0.25, "−0.2 %"]], name),
        Picture(figure, name, name),
        Gallery([Tile([PIXELS, PIXELS[::-1]], name, [name])], name),
    ]
    return Report(name, name, [Section(name, parts), Section("two", []), Section("three", [])], [(name, name)])


class Elements(HTMLParser):
    """Collects elements and the text between them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data.strip())

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_nothing_is_loaded_from_elsewhere(tmp_path: Path) -> None:
    a_report().write(tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text()
    elements = Elements(html)
    addresses = [
        value for _, attributes in elements.tags for key, value in attributes.items() if key in ("src", "href")
    ]
    assert len(addresses) == 6
    assert all(str(address).startswith(("data:image/png;base64,", "#section-")) for address in addresses)
    assert "http" not in re.sub(r"data:[^\"]*", "", html) and "@import" not in html and "url(" not in html


def test_pixels_of_a_gallery_are_exact() -> None:
    urls = [str(image["src"]) for image in Elements(a_report().html()).of("img")]
    decoded = [np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))) for url in urls]
    assert np.array_equal(decoded[1], PIXELS) and np.array_equal(decoded[2], PIXELS[::-1])
    assert decoded[0].shape[:2] == (144, 288)


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", 'a" onload="x', "{{ 7 * 7 }}", "<!--", "кот & 猫"])
def test_names_cannot_become_markup(name: str) -> None:
    plain, elements = Elements(a_report().html()), Elements(a_report(name).html())
    assert [tag for tag, _ in elements.tags] == [tag for tag, _ in plain.tags]
    assert [attributes.keys() for _, attributes in elements.tags] == [keys.keys() for _, keys in plain.tags]
    assert elements.text.count(name) == plain.text.count("cat") >= 8
    assert all(image["alt"] == name for image in elements.of("img"))


def test_columns_of_numbers_are_aligned_and_formatted() -> None:
    table = Table(["class", "count", "share", "gain"], [["a1", 1234, 0.5, "+0.1"], ["1b", None, 2500.25, "−0.2 %"]])
    assert table.is_number == [False, True, True, True]
    text = Elements(Report("a", "b", [Section("c", [table])]).html()).text
    assert {"1,234", "0.500", "2,500.2", "+0.1", "−0.2 %"} <= set(text)
    assert "None" not in text


def test_every_picture_is_described() -> None:
    assert all(image["alt"] for image in Elements(a_report().html()).of("img"))
