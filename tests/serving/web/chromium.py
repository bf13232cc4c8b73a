"""Chromium, with a camera that is not one, and the page as the command serves it."""

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.test_app import free_port, wait_until_served

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
    *("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"),
)


@contextmanager
def launched() -> Iterator[Any]:
    """Yield a browser; skip the test where none is installed."""
    if BROWSER is None:
        pytest.skip("no Chromium is installed")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as library:
        program = library.chromium.launch(executable_path=BROWSER, args=list(_FLAGS))
        yield program
        program.close()


@contextmanager
def served_page(folder: Path) -> Iterator[str]:
    """Yield the address of the page, served by the command in `folder`."""
    port = free_port()
    command = [sys.executable, str(ROOT / "commands.py"), "app", f"--port={port}"]
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        try:
            wait_until_served(port)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


def files(*named: tuple[str, bytes]) -> list[dict[str, Any]]:
    """Return PNG files for an upload."""
    return [{"name": name, "mimeType": "image/png", "buffer": data} for name, data in named]


def settled(tab: Any) -> Any:
    """Wait until the script of the page has ended, and return the page."""
    tab.wait_for_timeout(300)
    tab.wait_for_function("() => !document.querySelector('[data-testid=stStatusWidget], [data-testid=stSpinner]')")
    return tab
