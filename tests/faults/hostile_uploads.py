"""S4: the web page in a real browser: damaged uploads, models that change or go, a server that is started again."""

import importlib.util
import os
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.experiment import Experiment, Trial, sample
from tests.faults.program import PROGRAM
from tests.malformed import encode, malformed_images
from tests.serving.web.chromium import BROWSER, files, launched, settled
from tests.test_app import free_port, wait_until_served
from tests.tiny_onnx import coloured, write_colour_model

_MODEL = Path("models/colours/export/model.onnx")
_CORRECTIONS = Path("data/serving/corrections.db")
_MOST_BYTES = 5 * 2**20
_MILLISECONDS = 30_000
_RECONNECTED_MILLISECONDS = 5000
"""An open page tries to reach its server again every second or two."""
_RESULT = ".answer, [data-testid=stAlert]"


def obstacle() -> str:
    """Return why there can be no browser, or ""."""
    if BROWSER is None:
        return "no Chromium is installed"
    return "" if importlib.util.find_spec("playwright") else "playwright is not installed"


@dataclass
class OpenPage:
    """The page as the command serves it, open in a tab."""

    folder: Path
    tab: Any = None
    port: int = 0
    _process: "subprocess.Popen[bytes] | None" = None

    def serve(self) -> None:
        """Start the server, at the same port as before."""
        self.port = self.port or free_port()
        with (self.folder / "app.log").open("ab") as log:
            line = [*PROGRAM, "app", f"--port={self.port}"]
            self._process = subprocess.Popen(line, cwd=self.folder, stdout=log, stderr=log, start_new_session=True)
        wait_until_served(self.port)

    def kill(self) -> None:
        """Kill the server with all its processes."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def visit(self) -> None:
        self.tab.goto(f"http://127.0.0.1:{self.port}")
        self.tab.wait_for_selector("input[type=file]", state="attached")

    def upload(self, name: str, data: bytes) -> None:
        """Upload a file, and wait until the page has an answer or a reason beside those before."""
        seen = self.tab.locator(_RESULT).count()
        self.tab.set_input_files("input[type=file]", files((name, data)))
        self.tab.locator(_RESULT).nth(seen).wait_for()
        settled(self.tab)

    def problem(self) -> str:
        """Return whether the page or the log of its server shows a traceback."""
        if self.tab.locator("[data-testid=stException]").count():
            return f"the page shows an exception: {self.tab.locator('[data-testid=stException]').inner_text()[:300]}"
        log = (self.folder / "app.log").read_text(errors="replace")
        return f"the log has a traceback: {log[-500:]}" if "Traceback" in log else ""

    def answer_problem(self, channel: int = 2) -> str:
        """Upload a good picture, and return why it does not get its class, or ""."""
        self.visit()
        self.upload("good.png", encode(coloured(channel, 40), "PNG"))
        answers = self.tab.locator(".answer")
        if answers.count() != 1:
            return f"a good picture has {answers.count()} answers"
        expected = ("red", "green", "blue")[channel]
        return "" if expected in answers.inner_text() else f"a good picture is {answers.inner_text()[:100]!r}"


def malformed(data: bytes, name: str) -> Callable[[OpenPage], str]:
    def run(page: OpenPage) -> str:
        """The file has its reason and no class."""
        page.visit()
        page.upload(name, data)
        if page.tab.locator(".answer").count():
            return f"{name} has an answer"
        return "" if page.tab.locator("[data-testid=stAlert]").count() else f"{name} has no reason"

    return run


def model_changed(page: OpenPage) -> str:
    """Another model, whose classes have other names, takes the place of the first in mid-visit."""
    page.visit()
    page.upload("first.png", encode(coloured(0, 40), "PNG"))
    write_colour_model(page.folder / "new.onnx", ("cyan", "magenta", "blue"), weights_digest="c" * 64)
    os.replace(page.folder / "new.onnx", page.folder / _MODEL)
    page.upload("second.png", encode(coloured(0, 40), "PNG"))
    shown = " ".join(page.tab.locator(".answer").all_inner_texts())
    write_colour_model(page.folder / _MODEL)
    return "" if "cyan" in shown and "red" not in shown else f"after the change, the answers are {shown!r}"


def model_gone(damage: Callable[[Path], object]) -> Callable[[OpenPage], str]:
    def run(page: OpenPage) -> str:
        """The model goes or breaks in mid-visit; the page says so, and answers again when there is one."""
        page.visit()
        whole = (page.folder / _MODEL).read_bytes()
        damage(page.folder / _MODEL)
        page.upload("late.png", encode(coloured(0, 40), "PNG"))
        problem = "an answer of a model that is gone" if page.tab.locator(".answer").count() else ""
        problem = problem or page.problem()
        (page.folder / _MODEL).write_bytes(whole)
        return problem

    return run


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:200])


def restarted(page: OpenPage) -> str:
    """The server is killed while the page is open, and started again: the open page goes on."""
    page.visit()
    page.upload("before.png", encode(coloured(1, 40), "PNG"))
    page.kill()
    page.serve()
    page.tab.wait_for_timeout(_RECONNECTED_MILLISECONDS)
    page.tab.set_input_files("input[type=file]", files(("after.png", encode(coloured(0, 40), "PNG"))))
    page.tab.get_by_text("after.png ·").wait_for()
    shown = settled(page.tab).locator(".answer").all_inner_texts()
    return "" if any("red" in text for text in shown) else f"the open page shows {shown}"


def corrected(prepare: Callable[[Path], object], is_kept: bool) -> Callable[[OpenPage], str]:
    def run(page: OpenPage) -> str:
        """A label is corrected where the folder of corrections is gone or cannot be made."""
        shutil.rmtree(page.folder / "data", ignore_errors=True)
        (page.folder / "data").unlink(missing_ok=True)
        prepare(page.folder)
        page.visit()
        page.upload("mine.png", encode(coloured(1, 40), "PNG"))
        page.tab.get_by_text("Correct the label").click()
        page.tab.get_by_label("What is it?").fill("blue")
        page.tab.keyboard.press("Enter")
        page.tab.get_by_role("button", name="Save").click()
        page.tab.get_by_text("Saved as blue" if is_kept else "cannot be").first.wait_for()
        found = kept_corrections(page.folder / _CORRECTIONS)
        return "" if found == (["blue"] if is_kept else []) else f"the corrections are {found}"

    return run


def kept_corrections(file: Path) -> list[str]:
    if not file.is_file():
        return []
    with closing(sqlite3.connect(file)) as connection:
        if connection.execute("PRAGMA integrity_check").fetchone() != ("ok",):
            return ["damaged"]
        return [name for [name] in connection.execute("SELECT corrected_class FROM corrections")]


_SCENES: dict[str, Callable[[OpenPage], str]] = {
    "model deleted in mid-visit": model_gone(Path.unlink),
    "server killed and started again in mid-visit": restarted,
    "model changed in mid-visit": model_changed,
    "model truncated in mid-visit": model_gone(truncate),
    "folder of corrections deleted": corrected(lambda folder: None, is_kept=True),
    "a file in place of the folder of corrections": corrected(
        lambda folder: (folder / "data").write_text("a file"), is_kept=False
    ),
}


def disturb_pages(number: int, folder: Path) -> Iterator[Trial]:
    """Disturb an open page: by all scenes, or half of `number` of them, and by malformed uploads."""
    kinds = {file.name: malformed(file.data, file.name) for file in malformed_images() if len(file.data) < _MOST_BYTES}
    scenes = list(_SCENES)[: number // 2]
    faults = {name: kinds[name] for name in sample(kinds, number - len(scenes))} | {
        name: _SCENES[name] for name in scenes
    }
    write_colour_model(folder / _MODEL)
    page = OpenPage(folder)
    try:
        page.serve()
        with launched() as browser:
            page.tab = browser.new_context(locale="en-US").new_page()
            page.tab.set_default_timeout(_MILLISECONDS)
            for name, fault in faults.items():
                yield Trial(name, disturbed(page, fault))
    finally:
        page.kill()


def disturbed(page: OpenPage, fault: Callable[[OpenPage], str]) -> str:
    """Return what went wrong with a fault, or with the good picture after it."""
    from playwright.sync_api import Error

    try:
        return fault(page) or page.problem() or page.answer_problem()
    except Error as error:
        return f"the page did not come to it: {str(error)[:300]}"


HOSTILE_UPLOADS = Experiment(
    row="S4",
    name="hostile_uploads",
    claim="Each damaged file has its reason on the page, which tells of a model that is gone; the next good picture is "
    "answered; no traceback.",
    run=disturb_pages,
    short=4,
    full=36,
    obstacle=obstacle,
)
