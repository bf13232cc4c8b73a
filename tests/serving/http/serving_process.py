"""A real service in a process of its own, and requests to it as bytes on a socket."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import psutil
import requests

from tests.documented import ROOT


class Served:
    """A service that answers."""

    def __init__(self, process: "subprocess.Popen[str]", port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self.log = log

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def messages(self) -> str:
        return self.log.read_text()

    def workers(self) -> list[psutil.Process]:
        """Return the processes that answer."""
        children = psutil.Process(self.process.pid).children()
        return [child for child in children if "resource_tracker" not in " ".join(child.cmdline())]

    def connect(self) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        connection.settimeout(20)
        return connection

    def raw(self, data: bytes) -> bytes:
        """Send bytes, and return everything that comes back until the service closes the connection."""
        with closing(self.connect()) as connection:
            with suppress(OSError):  # it has answered before the end, and closed
                connection.sendall(data)
            return received(connection)


def received(connection: socket.socket) -> bytes:
    """Return what comes until the end of a connection."""
    parts = []
    try:
        while part := connection.recv(65536):
            parts.append(part)
    except (ConnectionError, TimeoutError):
        pass
    return b"".join(parts)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(
    folder: Path,
    *words: str,
    environment: Mapping[str, str] | None = None,
    is_ready: bool = True,
    port: int | None = None,
) -> Iterator[Served]:
    """Start `commands.py serve` in `folder` with these words, and end it at the end of the block."""
    port, log = port or free_port(), folder / "serve.log"
    line = [sys.executable, str(ROOT / "commands.py"), "serve", f"--port={port}", *words]
    with log.open("w") as file:
        process = subprocess.Popen(
            line, cwd=folder, stderr=file, stdout=file, text=True, env={**os.environ, **(environment or {})}
        )
    served = Served(process, port, log)
    try:
        if is_ready:
            wait_until_ready(served)
        yield served
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


def wait_until_ready(served: Served, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert served.process.poll() is None, served.messages()
        try:
            if requests.get(f"{served.url}/readyz", timeout=5).status_code == 200:
                return
        except requests.ConnectionError:
            pass
        time.sleep(0.05)
    raise AssertionError(f"not ready after {seconds} s: {served.messages()}")
