"""The web page in a real browser."""

import io
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cifar10.serving.web.language import language
from cifar10.serving.web.settings import PAGES
from tests.serving.web.chromium import files, launched, served_page, settled
from tests.serving.web.picture import png

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

_PHONE = {"width": 375, "height": 740}
Opened = Callable[..., Any]


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """Return the address of the page, served by the command."""
    with served_page(site) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as program:
        yield program


@pytest.fixture
def visit(browser: Any, address: str) -> Iterator[Opened]:
    """Return a function that opens a page as a new visitor, and waits until it is drawn."""
    contexts = []

    def opened(page: str = "", **settings: Any) -> Any:
        context = browser.new_context(**{"locale": "en-US", **settings})
        context.set_default_timeout(60_000)
        contexts.append(context)
        tab = context.new_page()
        tab.outside = []
        tab.on("request", lambda request: _note(tab, request.url, address))
        tab.goto(f"{address}/{page}")
        tab.wait_for_selector("h1")
        return tab

    yield opened
    for context in contexts:
        context.close()


def _note(tab: Any, url: str, address: str) -> None:
    if not url.startswith((address, "data:", "blob:")):
        tab.outside.append(url)


def assert_is_usable(tab: Any) -> None:
    """Check that there is no traceback, no request to another machine, and nothing wider than the page."""
    assert tab.locator("[data-testid=stException]").count() == 0
    assert tab.outside == []
    width = tab.evaluate("() => document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert width <= 0, f"the page is {width} pixels too wide"


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize(
    "settings",
    [{}, {"viewport": _PHONE, "color_scheme": "dark", "locale": "ru-RU"}],
    ids=["desktop", "phone-dark-russian"],
)
def test_every_page_is_usable(visit: Opened, page: str, settings: dict[str, Any]) -> None:
    tab = settled(visit(page, **settings))
    assert_is_usable(tab)
    words = language("ru" if settings else "en")
    assert tab.locator("h1").inner_text() == words(f"pages.{page}")
    colour = tab.evaluate("() => getComputedStyle(document.querySelector('.stApp')).backgroundColor")
    assert (colour == "rgb(17, 21, 31)") == bool(settings)


def test_pictures_get_answers_and_wrong_files_their_reasons(visit: Opened) -> None:
    tab = visit()
    noise = np.random.default_rng(0).integers(0, 256, (6100, 8200, 3), np.uint8)
    large = io.BytesIO()
    Image.fromarray(noise[:, :, :1].repeat(3, axis=2)).resize((8200, 6100)).save(large, "JPEG", quality=5)
    assert len(large.getvalue()) < 10 * 2**20
    tab.set_input_files(
        "input[type=file]",
        files(("good.png", png()), ("text.png", b"no picture"), ("photo.jpg", large.getvalue())),
    )
    tab.wait_for_function("() => document.querySelectorAll('.answer').length == 2")
    settled(tab)
    assert_is_usable(tab)
    assert "not a picture in a known format" in tab.locator("[data-testid=stAlert]").inner_text()
    with tab.expect_download() as download:
        tab.get_by_text("Download the table (CSV)").click()
    table = Path(download.value.path()).read_text()
    assert table.splitlines()[0].startswith("path,class_name,class_id,probability,label,error,class_name_2")
    assert len(table.splitlines()) == 4


def test_a_file_over_the_limit_is_refused_by_the_page(visit: Opened) -> None:
    tab = visit()
    tab.set_input_files("input[type=file]", files(("large.png", os.urandom(11 * 2**20))))
    tab.get_by_text("must be 10.0MB or smaller").wait_for()
    assert tab.locator(".answer").count() == 0


def test_the_camera_and_the_details_of_its_picture(visit: Opened) -> None:
    tab = visit()
    tab.get_by_text("Camera").click()
    tab.wait_for_function("(document.querySelector('video') || {}).readyState >= 2")  # the stream has begun
    tab.get_by_text("Take Photo").click()
    tab.wait_for_selector(".answer")
    tab.get_by_text("Details").click()
    tab.get_by_text("What the network sees").wait_for()
    tab.get_by_text("Grad-CAM").wait_for()
    assert "image_sha256" in settled(tab).locator("[data-testid=stJson]").inner_text()
    assert_is_usable(tab)


def test_a_correction_is_saved(visit: Opened) -> None:
    tab = visit()
    tab.set_input_files("input[type=file]", files(("mine.png", png(seed=5))))
    tab.get_by_text("Correct the label").click()
    tab.get_by_label("What is it?").fill("ring")
    tab.keyboard.press("Enter")
    tab.get_by_role("button", name="Save").click()
    tab.get_by_text("Saved as ring. Thank you.").wait_for()


def test_several_visitors_at_once_get_their_own_answers(visit: Opened) -> None:
    tabs = [visit() for _ in range(5)]
    for number, tab in enumerate(tabs):
        tab.set_input_files("input[type=file]", files((f"visitor-{number}.png", png(seed=number))))
    for number, tab in enumerate(tabs):
        tab.wait_for_selector(".answer")
        assert settled(tab).get_by_text(f"visitor-{number}.png ·").count() == 1
        assert_is_usable(tab)


def test_the_arrow_keys_turn_the_pages_of_the_data(visit: Opened) -> None:
    tab = settled(visit("data"))
    tab.get_by_text("training (60)").click()
    tab.get_by_text("Page 1 of 2").wait_for()
    tab.locator("h1").click()  # within a filter, the arrow keys change it
    tab.keyboard.press("ArrowRight")
    tab.get_by_text("Page 2 of 2").wait_for()
    tab.keyboard.press("ArrowLeft")
    tab.get_by_text("Page 1 of 2").wait_for()


def test_the_keyboard_reaches_what_the_page_offers(visit: Opened) -> None:
    tab = settled(visit())
    tab.wait_for_selector("input[type=file]", state="attached")
    reached = set()
    for _ in range(30):
        tab.keyboard.press("Tab")
        reached.add(tab.evaluate("() => document.activeElement.innerText || document.activeElement.ariaLabel || ''"))
    texts = " ".join(reached)
    assert all(name in texts for name in ("Classify", "Drift", "Upload")), texts


def test_the_language_can_be_chosen_and_stays(visit: Opened) -> None:
    tab = settled(visit())
    tab.get_by_role("combobox", name="Language").click()
    tab.get_by_text("Русский").click()
    tab.get_by_role("heading", name="Распознавание").wait_for()
    tab.get_by_text("Запуски").click()
    tab.get_by_role("heading", name="Запуски").wait_for()


def test_many_requests_at_once_are_served(address: str) -> None:
    import urllib.request

    def health(_: int) -> bytes:
        with urllib.request.urlopen(f"{address}/_stcore/health", timeout=20) as reply:
            return bytes(reply.read())

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(health, range(40))) == {b"ok"}
