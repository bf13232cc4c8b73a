"""The page *Classify*, without a browser."""

import csv
import io
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from cifar10.inference.predictor import Predictor
from cifar10.serving.corrections import CorrectionStore
from cifar10.serving.web.settings import WebSettings
from tests.serving.web.conftest import Page, html_of
from tests.serving.web.picture import png


def test_the_answer_is_the_one_of_the_command_line(page: Page, site: Path) -> None:
    at = page()
    at.file_uploader[0].upload("a.png", png()).run()
    assert not at.exception and not at.error
    [expected] = Predictor.from_checkpoint(site / "models/run/best.ckpt", engine="onnx").predict([png()], top_k=1)
    shown = html_of(at)
    assert f"<strong>{expected.class_name}</strong>" in shown and f"{expected.probability:.1%}" in shown


def big_png(width: int, height: int) -> bytes:
    """Return a PNG of a few kilobytes that claims to have so many pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("text.png", b"a text, not a picture", "not a picture in a known format"),
        ("empty.png", b"", "The file is empty"),
        ("cut.jpg", png((200, 200), form="JPEG")[:3000], "damaged"),
        ("flipped.png", png()[:200] + b"\x00" + png()[201:], "damaged"),
        ("huge.png", big_png(60_000, 60_000), "too large; 52 megapixels are possible"),
        ("sixty.png", big_png(10_000, 6_000), "10000 x 6000 pixels; 52 megapixels are possible"),
        ("film.mp4", b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(100), "raw photo or a video"),
    ],
)
def test_a_file_that_is_no_picture_has_its_reason_and_the_others_have_answers(
    page: Page, name: str, data: bytes, reason: str
) -> None:
    at = page()
    at.file_uploader[0].set_value([(name, data, "image/png"), ("good.png", png(), "image/png")]).run()
    assert not at.exception
    assert reason in at.error[0].value and len(at.error) == 1
    assert html_of(at).count('class="answer"') == 1
    assert "not readable: 1" in at.caption[0].value


def test_the_first_frame_of_an_animation_is_classified(page: Page) -> None:
    file = io.BytesIO()
    frames = [Image.open(io.BytesIO(png(seed=seed))) for seed in (1, 2)]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    at = page()
    at.file_uploader[0].upload("film.gif", file.getvalue()).run()
    assert not at.error and 'class="answer"' in html_of(at)


def test_the_table_has_the_columns_of_infer_and_names_are_no_formulas(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables: list[str] = []
    monkeypatch.setattr("streamlit.download_button", lambda label, text, *_, **__: tables.append(text))
    at = page()
    at.file_uploader[0].set_value([("=1+1.png", png(), "image/png"), ("b.png", b"x", "image/png")]).run()
    at.number_input(key="top_k").set_value(2)
    at.toggle(key="receipts").set_value(True).run()
    rows = list(csv.DictReader(io.StringIO(tables[-1])))
    assert list(rows[0])[:9] == [
        *("path", "class_name", "class_id", "probability", "label", "error"),
        *("class_name_2", "class_id_2", "probability_2"),
    ]
    assert rows[0]["path"] == "./=1+1.png" and len(rows[0]["weights_digest"]) == 64 and rows[0]["image_sha256"]
    assert rows[1]["error"] and not rows[1]["class_name"]


def test_a_correction_is_kept(page: Page, site: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("cifar10.serving.web.correcting.CorrectionStore", lambda: CorrectionStore(tmp_path / "c.db"))
    at = page()
    at.file_uploader[0].upload("a.png", png(seed=3)).run()
    [chosen] = [box for box in at.selectbox if box.key and box.key.startswith("correct_")]
    chosen.set_value("ring")
    at.button[-1].click().run()
    [kept] = CorrectionStore(tmp_path / "c.db").corrections()
    assert kept.corrected_class == "ring" and kept.source == "web"
    assert "Saved as ring" in at.success[0].value


def test_without_a_model_the_command_that_trains_one_is_shown(page: Page, tmp_path: Path) -> None:
    at = page(settings=WebSettings(models_dir=tmp_path))
    assert "python commands.py train" in at.code[0].value and not at.exception


def test_a_damaged_model_is_an_error_in_words(page: Page, tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "best.ckpt").write_bytes(b"nothing")
    at = page(settings=WebSettings(models_dir=tmp_path))
    assert "cannot be used" in at.error[0].value and not at.exception


def test_samples_come_from_the_data_set_and_have_answers(page: Page) -> None:
    at = page()
    at.segmented_control(key="source").set_value("samples").run()
    assert not at.exception and "shapes" in at.caption[0].value
    assert html_of(at).count('class="answer"') == 8


def test_an_address_in_the_private_network_is_refused_unless_the_visitor_sits_here(page: Page) -> None:
    for local, expected in ((False, "in a private network"), (True, "The server does not answer")):
        at = page(local=local)
        at.segmented_control(key="source").set_value("address").run()
        at.text_input(key="typed_address").set_value("http://127.0.0.1:9/a.png")
        at.button[0].click().run()
        assert expected in at.error[0].value
