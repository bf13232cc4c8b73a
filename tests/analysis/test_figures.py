"""Figures can be read: whole epochs, ticks that differ, and the names of classes as they are or a word on why not."""

import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder  # type: ignore[import-untyped]
from fontTools.pens.ttGlyphPen import TTGlyphPen  # type: ignore[import-untyped]
from matplotlib import font_manager
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from PIL import Image

from cifar10.analysis.figures import confusion_matrix, learning_curves

NAN = math.nan


def picture(figure: Figure) -> tuple[int, int]:
    """Draw the figure as it is saved; return its width and height in pixels."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=50)
    return Image.open(file).size


def history(losses: Sequence[float], accuracies: Sequence[float], validation: bool = False) -> list[dict[str, float]]:
    entries = [
        {"epoch": epoch, "train/loss": loss, "train/accuracy": accuracy}
        for epoch, (loss, accuracy) in enumerate(zip(losses, accuracies, strict=True))
    ]
    return [
        {**e, "val/loss": e["train/loss"], "val/accuracy": e["train/accuracy"]} if validation else e for e in entries
    ]


def visible_ticks(axis: Axis) -> list[str]:
    low, high = sorted(axis.get_view_interval())
    return [tick.label1.get_text() for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("validation", [False, True])
@pytest.mark.parametrize("epochs", [1, 2, 3, 13, 200])
def test_epochs_are_whole_and_ticks_differ(epochs: int, validation: bool) -> None:
    progress = np.linspace(0, 1, epochs)
    figure = learning_curves(history(list(2.1 - progress), list(0.6 + 0.01 * progress), validation))
    picture(figure)
    for axes in figure.axes:
        ticks = visible_ticks(axes.xaxis)
        assert ticks and all(tick.isdecimal() and 0 <= int(tick) <= epochs for tick in ticks)
        for axis in (axes.xaxis, axes.yaxis):
            assert len(set(visible_ticks(axis))) == len(visible_ticks(axis))
    assert all(tick.endswith("%") for tick in visible_ticks(figure.axes[1].yaxis))


@pytest.mark.filterwarnings("error")
def test_one_epoch_is_shown_on_a_whole_scale() -> None:
    figure = learning_curves(history([2.0], [0.605]))
    picture(figure)
    loss, accuracy = figure.axes
    assert visible_ticks(loss.xaxis) == visible_ticks(accuracy.xaxis) == ["1"]
    assert loss.get_ylim()[0] == 0 and loss.get_ylim()[1] > 2.1
    assert visible_ticks(accuracy.yaxis) == ["0%", "20%", "40%", "60%", "80%", "100%"]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "losses", [[NAN], [0.0], [NAN, NAN], [2.0, NAN, 1.0], [2.0, math.inf, 1.0], [-math.inf], [1e30, 1e-30], [3e38]]
)
def test_what_is_no_number_leaves_a_gap(losses: list[float]) -> None:
    figure = learning_curves(history(losses, losses))
    picture(figure)
    shown = [value for line in figure.axes[0].lines for value in np.asarray(line.get_ydata()) if math.isfinite(value)]
    assert shown == [loss for loss in losses if math.isfinite(loss)]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("num_classes", [1, 2, 10, 11, 100])
def test_a_confusion_matrix_names_each_class(num_classes: int) -> None:
    names = [f"class {number}" for number in range(num_classes)]
    figure = confusion_matrix(np.eye(num_classes, dtype=np.int64), names)
    picture(figure)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == names
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == names


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
def test_of_a_thousand_classes_some_are_named_each_at_its_own_row() -> None:
    figure = confusion_matrix(np.eye(1000, dtype=np.int64), [f"class {number}" for number in range(1000)])
    assert max(picture(figure)) <= 17 * 50
    rows = figure.axes[0].get_yticks()
    assert 100 <= len(rows) <= 160
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [f"class {row:g}" for row in rows]


def drawn_names(names: Sequence[str]) -> list[str]:
    figure = confusion_matrix(np.eye(len(names), dtype=np.int64), names)
    picture(figure)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == [label.get_text() for label in figure.axes[0].get_xticklabels()]
    return labels


@pytest.mark.filterwarnings("error")
def test_a_name_is_text_and_never_a_formula(capsys: pytest.CaptureFixture[str]) -> None:
    names = ["$x^2$", "$\\frac$", "a_b", "50 % {off}", "\\n", "Füße", "кошка", "γάτα"]
    assert drawn_names(names) == names
    assert capsys.readouterr().err == ""


@pytest.mark.filterwarnings("error")
def test_a_name_stays_on_one_line_of_bounded_length() -> None:
    long = "n01440764 tench, Tinca tinca"
    assert drawn_names(["two\nlines\tand more", "\x00", "\udc80a", "x" * 5000, long]) == [
        "two lines and more",
        "\ufffd",
        "\ufffda",
        "x" * 11 + "…" + "x" * 11,
        "n01440764 t…Tinca tinca",
    ]


@pytest.mark.filterwarnings("error")
def test_a_class_whose_name_no_font_can_draw_is_shown_by_its_number(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fonts = [
        font for font in font_manager.fontManager.ttflist if font.name in ("DejaVu Sans", "Last Resort High-Efficiency")
    ]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", fonts)
    assert drawn_names(["dog", "犬", "ねこ", "a 犬"]) == ["dog", "1", "2", "3"]
    (line,) = capsys.readouterr().err.splitlines()
    assert "no installed font can draw 3 of the class names" in line


@pytest.fixture
def font_with_a_dog(tmp_path: Path) -> Iterator[str]:
    """Install a font that has the one glyph 犬, and return the name of its family."""
    pen = TTGlyphPen(None)
    pen.moveTo((100, 0))
    for point in ((900, 0), (900, 800), (100, 800)):
        pen.lineTo(point)
    pen.closePath()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "dog"])
    builder.setupCharacterMap({ord("犬"): "dog"})
    builder.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "dog": pen.glyph()})
    builder.setupHorizontalMetrics({".notdef": (1000, 0), "dog": (1000, 100)})
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "One Dog", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(tmp_path / "dog.ttf")
    listed = list(font_manager.fontManager.ttflist)
    font_manager.fontManager.addfont(tmp_path / "dog.ttf")
    yield "One Dog"
    font_manager.fontManager.ttflist[:] = listed


@pytest.mark.filterwarnings("error")
def test_a_name_is_drawn_with_an_installed_font_that_has_its_characters(
    font_with_a_dog: str,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fonts = [font for font in font_manager.fontManager.ttflist if font.name in ("DejaVu Sans", font_with_a_dog)]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", fonts)
    assert drawn_names(["dog", "犬"]) == ["dog", "犬"]
    assert capsys.readouterr().err == "" and not caplog.records
