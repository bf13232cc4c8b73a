"""How soon is the web page usable, and how much memory does it take?

    python benchmarks/web_page.py FOLDER [--rounds 3]

FOLDER has `models/` with an exported run. Starts the page in it, opens *Classify* in Chromium, and states the seconds
from the start of the command until the page takes a picture, the seconds until the answer for one is drawn, and the
resident memory of the server: with nobody, with one visitor, and with five who each classify eight pictures.
"""

import argparse
import io
import signal
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from measuring import REPOSITORY, spread, table, write_results
from PIL import Image
from playwright.sync_api import sync_playwright

_PORT = 8658
_FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")
_VISITORS, _PICTURES = 5, 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    found: dict[str, list[float]] = defaultdict(list)
    with sync_playwright() as library:
        browser = library.chromium.launch(executable_path="/usr/bin/chromium", args=list(_FLAGS))
        for _ in range(arguments.rounds):
            measure(arguments.folder, browser, found)
        browser.close()
    rows = [[name, spread(values, 1 if "MB" not in name else 0)] for name, values in found.items()]
    body = [f"Medians of {arguments.rounds} rounds, in brackets the range.", "", *table(["", "measured"], rows)]
    write_results("web_page", "The web page: start and memory", body, dict(found))
    print(statistics.median(found["s until the page is usable"]), file=sys.stderr)


def measure(folder: Path, browser: Any, found: dict[str, list[float]]) -> None:
    """Start the page once, and add what is measured."""
    start = time.perf_counter()
    command = [sys.executable, str(REPOSITORY / "commands.py"), "app", f"--port={_PORT}"]
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        try:
            tabs = [opened(browser)]
            found["s until the page is usable"].append(time.perf_counter() - start)
            found["MB, page opened once"].append(megabytes(process.pid))
            sent = time.perf_counter()
            send(tabs[0], [picture(0)])
            found["s until the first answer"].append(time.perf_counter() - sent)
            send(tabs[0], [picture(seed) for seed in range(1, _PICTURES)])
            found["MB, one visitor"].append(megabytes(process.pid))
            tabs += [opened(browser) for _ in range(_VISITORS - 1)]
            for number, tab in enumerate(tabs[1:], 1):
                send(tab, [picture(100 * number + seed) for seed in range(_PICTURES)])
            found["MB, five visitors"].append(megabytes(process.pid))
            for tab in tabs:
                tab.context.close()
        finally:
            process.send_signal(signal.SIGTERM)


def opened(browser: Any) -> Any:
    """Return the page as a new visitor sees it, once it takes pictures."""
    tab = browser.new_context().new_page()
    while True:
        try:
            tab.goto(f"http://127.0.0.1:{_PORT}/")
            break
        except Exception:  # nobody listens yet
            time.sleep(0.05)
    tab.wait_for_selector("input[type=file]", state="attached")
    return tab


def send(tab: Any, pictures: list[bytes]) -> None:
    """Upload pictures, and wait for one answer more than there were for each."""
    number = tab.locator(".answer").count() + len(pictures)
    payload = [
        {"name": f"{number}-{i}.png", "mimeType": "image/png", "buffer": data} for i, data in enumerate(pictures)
    ]
    tab.set_input_files("input[type=file]", payload)
    tab.wait_for_function(f"() => document.querySelectorAll('.answer').length >= {number}")


def picture(seed: int) -> bytes:
    """Return a PNG of 500 x 400 pixels."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (400, 500, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def megabytes(pid: int) -> float:
    """Return the resident memory of a process and its children."""
    process = psutil.Process(pid)
    return sum(each.memory_info().rss for each in (process, *process.children(recursive=True))) / 1e6


if __name__ == "__main__":
    main()
