"""Draw the pictures of web_page.md: screenshots of the page with a trained network, in Chromium.

    python docs/draw_web_page.py FOLDER

FOLDER has `models/` with an evaluated and exported CIFAR-10 run, and its data.
"""

import io
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

HERE = Path(__file__).resolve().parent
_PORT = 8657
_FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")
_COLOURS = 200


def draw(folder: Path) -> None:
    """Write `_static/web_*.png`."""
    command = [sys.executable, str(HERE.parent / "commands.py"), "app", f"--port={_PORT}"]
    with subprocess.Popen(command, cwd=folder) as process:
        try:
            _wait()
            with sync_playwright() as library:
                browser = library.chromium.launch(executable_path="/usr/bin/chromium", args=list(_FLAGS))
                for name, page, size, settings, act in _PICTURES:
                    _picture(browser, name, page, size, settings, act)
                browser.close()
        finally:
            process.send_signal(signal.SIGTERM)


def _wait() -> None:
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{_PORT}/_stcore/health", timeout=2).close()
            return
        except OSError:
            time.sleep(0.2)


def _picture(
    browser: Any, name: str, page: str, size: tuple[int, int], settings: dict[str, Any], act: Callable[[Any], None]
) -> None:
    viewport = {"width": size[0], "height": size[1]}
    context = browser.new_context(**{"locale": "en-US", "viewport": viewport, **settings})
    context.set_default_timeout(120_000)
    tab = context.new_page()
    tab.goto(f"http://127.0.0.1:{_PORT}/{page}")
    tab.wait_for_selector("h1")
    act(tab)
    tab.wait_for_timeout(2500)
    image = Image.open(io.BytesIO(tab.screenshot())).convert("RGB")
    if image.width > 1000:
        image = image.resize((1000, image.height * 1000 // image.width), Image.Resampling.LANCZOS)
    image.quantize(_COLOURS).save(HERE / "_static" / f"web_{name}.png", optimize=True)
    context.close()


def _samples(tab: Any) -> None:
    tab.get_by_text("Samples").or_(tab.get_by_text("Примеры")).first.click()
    tab.wait_for_selector(".answer")


def _details(tab: Any) -> None:
    _samples(tab)
    tab.get_by_text("Details").first.click()
    tab.get_by_text("Grad-CAM").wait_for()


def _wrong(tab: Any) -> None:
    tab.get_by_text("wrong", exact=True).click()
    tab.wait_for_timeout(1000)
    tab.wait_for_function("() => !document.querySelector('[data-testid=stSpinner]')")


def _drawn(tab: Any) -> None:
    tab.wait_for_selector("[data-testid=stVegaLiteChart] canvas, [data-testid=stVegaLiteChart] svg")


_PICTURES: tuple[tuple[str, str, tuple[int, int], dict[str, Any], Callable[[Any], None]], ...] = (
    ("classify", "", (1200, 860), {}, _details),
    ("phone", "", (375, 760), {"locale": "ru-RU", "color_scheme": "dark", "device_scale_factor": 1}, _samples),
    ("model", "model", (1200, 900), {}, _drawn),
    ("runs", "runs", (1200, 760), {}, _drawn),
    ("data", "data", (1200, 760), {}, _wrong),
    ("drift", "drift", (1200, 900), {}, _drawn),
)

if __name__ == "__main__":
    draw(Path(sys.argv[1]))
