"""`python commands.py app` starts the page, and ends with it."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cifar10 import app as entry
from cifar10.serving.web.settings import WebSettings, read_settings
from tests.conftest import ROOT


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def started(folder: Path, *words: str, program: str = "commands.py") -> "Iterator[subprocess.Popen[str]]":
    """Yield the program; a child that is left is ended."""
    command = [sys.executable, str(ROOT / program), *words]
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_until_served(port: int, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=2) as reply:
                assert reply.read() == b"ok"
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.1)
    raise AssertionError("the page does not respond")


@pytest.mark.slow  # starts Streamlit
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_page_and_is_its_exit_code(tmp_path: Path, number: int, code: int) -> None:
    port = free_port()
    with started(tmp_path, "app", f"--port={port}") as process:
        wait_until_served(port)
        process.send_signal(number)
        _, said = process.communicate(timeout=30)
        assert process.returncode == code and f"http://127.0.0.1:{port}/" in said
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0  # the child has ended too


@pytest.mark.slow
@pytest.mark.parametrize(("program", "words", "page"), [("cnn_app.py", [], "classify"), ("main.py", [], "cats")])
def test_other_doors_open_their_page(tmp_path: Path, program: str, words: list[str], page: str) -> None:
    if program == "cnn_app.py":
        port = free_port()
        with started(tmp_path, f"--port={port}", program=program) as process:
            wait_until_served(port)
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 143
        return
    with started(tmp_path, "--web", "grouping=animals", "model=squeezenet1_1_imagenet", program=program) as process:
        try:
            wait_until_served(8501)
            process.send_signal(signal.SIGTERM)
        except AssertionError:
            pass
        _, said = process.communicate(timeout=30)
        assert "8501/cats_and_dogs" in said or "cannot listen at 127.0.0.1:8501" in said


@pytest.mark.slow
def test_an_error_of_streamlit_is_the_exit_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(entry, "SCRIPT", tmp_path / "missing.py")
    assert entry.app(WebSettings(), port=0) == 2


def test_a_port_that_is_taken_is_one_line_at_once(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with started(tmp_path, "app", f"--port={port}") as process:
            _, said = process.communicate(timeout=20)
        assert process.returncode == 1
        assert said.strip().splitlines()[-1].startswith(f"error: the page cannot listen at 127.0.0.1:{port}")
        assert "Traceback" not in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--port=99999"], "--port=99999 is not possible"),
        (["--checkpoint_name=nothing"], "there is no checkpoint nothing"),
        (["--host=203.0.113.7"], "the page cannot listen at 203.0.113.7:8501"),
    ],
)
def test_a_mistake_is_told_at_once(tmp_path: Path, words: list[str], said: str) -> None:
    with started(tmp_path, "app", *words) as process:
        _, message = process.communicate(timeout=20)
    assert process.returncode in (1, 2) and said in message and "Traceback" not in message


def test_settings_reach_the_page_through_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    given = WebSettings(
        Path("elsewhere"), "first", "runs", ("model=resnet18_imagenet", "model.weights=w.pth"), "animals"
    )
    for name, value in given.environment().items():
        monkeypatch.setenv(name, value)
    assert read_settings() == given
    monkeypatch.setenv("CIFAR10_WEB_PAGE", "../../etc/passwd")
    assert read_settings().page == "classify"


def test_no_variable_can_loosen_the_settings_of_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    words = entry._words("127.0.0.1", 8501)
    for flag in (
        *("--client.showErrorDetails=none", "--server.enableXsrfProtection=true", "--server.maxUploadSize=10"),
        *("--server.fileWatcherType=none", "--browser.gatherUsageStats=false", "--client.toolbarMode=minimal"),
        *("--server.address=127.0.0.1", "--server.allowedHosts=localhost"),
    ):
        assert flag in words
    assert not [flag for flag in entry._words("0.0.0.0", 8501) if "allowedHosts" in flag]
    assert os.path.isfile(entry.SCRIPT)
