"""Entry point of `app`: start the web page with Streamlit as a child process, and pass signals and its exit code on."""

import os
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

from cifar10.config.conf_folder import PROJECT
from cifar10.serving.web.settings import WebSettings
from cifar10.system.listening import LOOPBACK, require_free, url_of
from cifar10.system.signals import Stopped, taken_by

SCRIPT = PROJECT / "streamlit_app.py"
SETTINGS = PROJECT / ".streamlit" / "config.toml"
_PATIENCE = 10.0  # seconds that visitors' work has to end after a signal


def app(settings: WebSettings, host: str = "127.0.0.1", port: int = 8501) -> int:
    """Serve the page until a signal ends it, and return the exit code of Streamlit.

    Args:
        settings: What the page starts with.
        host: The address to listen at.
        port: The port; 0: any that is free.

    Raises:
        UserError: The address cannot be used, or Streamlit is not installed.
        Stopped: A signal came; it was passed on, and Streamlit has ended.
    """
    port = require_free(host, port, "the page")
    environment = {**os.environ, **settings.environment(), "PYTHONPATH": _python_path()}
    process = subprocess.Popen(_words(host, port), env=environment, stdin=subprocess.DEVNULL)
    page = "" if settings.page == "classify" else settings.page
    print(f"{url_of(host, port)}/{page}; Ctrl-C ends it", file=sys.stderr, flush=True)
    if host not in LOOPBACK:
        print(f"note: whoever reaches {host} can use this page; it asks for no password", file=sys.stderr, flush=True)
    return _wait(process)


def _wait(process: "subprocess.Popen[bytes]") -> int:
    received: list[int] = []

    def pass_on(number: int, count: int) -> None:
        received.append(number)
        if count > 1:
            process.kill()
        elif process.poll() is None:
            process.send_signal(number if number == signal.SIGINT else signal.SIGTERM)

    try:
        with taken_by(pass_on):
            while True:
                try:
                    code = process.wait(_PATIENCE if received else None)
                    break
                except subprocess.TimeoutExpired:
                    process.kill()
    except BaseException:
        process.kill()
        raise
    if received:
        raise Stopped(received[0])
    return 128 - code if code < 0 else code


def _words(host: str, port: int) -> list[str]:
    """Return the command line of Streamlit: the settings of the file as flags, which no variable can change."""
    values = {**dict(_flat(tomllib.loads(SETTINGS.read_text(encoding="utf-8")))), "server.port": port}
    flags = [f"--{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in values.items()]
    flags.append(f"--server.address={host}")
    if host in LOOPBACK:  # another name for this machine could be an attack by DNS rebinding
        flags += [f"--server.allowedHosts={name}" for name in LOOPBACK]
    return [sys.executable, "-m", "streamlit", "run", str(SCRIPT), *flags]


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _python_path() -> str:
    return os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")]))
