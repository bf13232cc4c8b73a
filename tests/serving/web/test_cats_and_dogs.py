"""The page *Cats and dogs*, with a network whose weights are random, or with a real one where it is at hand."""

import csv
import io
from pathlib import Path

import pytest
import streamlit as st
import torch
import torchvision
from streamlit.testing.v1 import AppTest

from cifar10.serving.web.pretrained import _loaded
from cifar10.serving.web.settings import WebSettings
from tests.conftest import SHARED_DATA
from tests.serving.web.conftest import Page, html_of
from tests.serving.web.picture import png

pytestmark = pytest.mark.slow  # imports torchvision

_PHOTOS = SHARED_DATA / "photos"


@pytest.fixture
def settings(tmp_path: Path) -> WebSettings:
    torch.manual_seed(0)
    torch.save(torchvision.models.squeezenet1_1().state_dict(), tmp_path / "weights.pth")
    return with_weights(tmp_path / "weights.pth")


def with_weights(file: Path) -> WebSettings:
    return WebSettings(page="cats_and_dogs", cats_model=("model=squeezenet1_1_imagenet", f"model.weights={file}"))


def look_at(at: AppTest, folder: Path) -> None:
    at.segmented_control(key="cats_source").set_value("folder").run()
    at.text_input(key="cats_folder").set_value(str(folder))
    at.button[0].click().run()


def test_uploads_are_counted_and_wrong_files_have_their_reasons(page: Page, settings: WebSettings) -> None:
    at = page(settings=settings)
    at.file_uploader[0].set_value([("a.png", png(), "image/png"), ("b.png", b"no picture", "image/png")]).run()
    assert not at.exception
    assert "not a picture in a known format" in at.error[0].value
    assert all(f">{name}</span>" in html_of(at) for name in ("cat", "dog", "neither", "not sure"))


def test_folders_and_networks_are_for_visitors_at_this_computer(page: Page, settings: WebSettings) -> None:
    at = page(settings=settings, local=False)
    assert not [each for each in at.get("button_group") if each.key == "cats_source"]
    assert not at.text_input and not [box for box in at.selectbox if box.key == "cats_network"]


def test_a_folder_that_is_not_there_is_told(page: Page, settings: WebSettings, tmp_path: Path) -> None:
    at = page(settings=settings)
    look_at(at, tmp_path / "nothing")
    assert "There is no folder" in at.error[0].value
    (tmp_path / "empty").mkdir()
    look_at(at, tmp_path / "empty")
    assert "no pictures" in at.error[0].value and not at.exception


def test_weights_that_are_not_there_are_told(page: Page, tmp_path: Path) -> None:
    at = page(settings=with_weights(tmp_path / "missing.pth"))
    at.file_uploader[0].upload("a.png", png()).run()
    assert "cannot be loaded" in at.error[0].value and not at.exception


@pytest.mark.skipif(not _PHOTOS.is_dir(), reason="the photos are not in ../shared/data")
def test_photos_of_a_folder_are_sorted_as_published(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    tables: list[str] = []
    monkeypatch.setattr(st, "download_button", lambda label, text, *_, **__: tables.append(text))
    _loaded.clear()
    at = page(settings=with_weights(_PHOTOS / "squeezenet1_1_imagenet1k.pth"))
    look_at(at, _PHOTOS)
    rows = {row["path"]: row["group"] for row in csv.DictReader(io.StringIO(tables[-1]))}
    expected = {"cat": "cat", "dog": "dog", "other": "neither"}
    assert len(rows) == 10
    assert all(group == expected[name.partition("_")[0]] for name, group in rows.items())
