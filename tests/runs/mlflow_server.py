"""A real MLflow server in processes of its own, with its database and files in a folder, and what may happen to it."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import psutil

from tests.serving.http.serving_process import free_port


def wait_until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come to pass"
        time.sleep(0.02)


class MLflowServer:
    """A server that can be started, and started again, at the same address with the same records.

    Args:
        folder: Of its database and files.
        port: None: one that is free.
    """

    def __init__(self, folder: Path, port: int | None = None) -> None:
        self.folder = folder
        self.port = port or free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def database(self) -> Path:
        return self.folder / "server.db"

    @property
    def files(self) -> Path:
        return self.folder / "files"

    def start(self) -> None:
        """Start the server, and return once it responds."""
        command = [sys.executable, "-m", "mlflow", "server", f"--port={self.port}", "--workers=1"]
        command += [f"--backend-store-uri=sqlite:///{self.database}", f"--artifacts-destination={self.files}"]
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # a third of the time to start
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, env=environment)
        wait_until(self._responds, 120)

    def kill(self) -> None:
        """End all its processes with SIGKILL; nothing happens if there are none."""
        if self._process is not None:
            processes = self._processes()
            self.send(signal.SIGKILL)
            self._process.wait()
            psutil.wait_procs(processes, timeout=30)  # until then, one of them listens at the port
            self._process = None

    def send(self, number: signal.Signals) -> None:
        """Send a signal to all its processes: SIGSTOP lets it hang, SIGCONT go on."""
        assert self._process is not None
        os.killpg(self._process.pid, number)

    def limit_files(self, num_bytes: int) -> None:
        """Let no file of it grow beyond `num_bytes`, as on a full disk; -1: without a limit."""
        for process in self._processes():
            process.rlimit(psutil.RLIMIT_FSIZE, (num_bytes, -1))

    def _processes(self) -> list[psutil.Process]:
        assert self._process is not None
        first = psutil.Process(self._process.pid)
        return [first, *first.children(recursive=True)]

    def _responds(self) -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=1):
            return True
        return False


@contextlib.contextmanager
def mlflow_server(folder: Path, port: int | None = None) -> Iterator[MLflowServer]:
    """Yield a server that has been started; it is killed at the end."""
    server = MLflowServer(folder, port)
    try:
        server.start()
        yield server
    finally:
        server.kill()


class _Refusing(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path in self.server.accepted else 500)  # type: ignore[attr-defined]
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None: ...


@contextlib.contextmanager
def refusing_server(port: int, *accepted: str) -> Iterator[None]:
    """Answer every request with status 500 but those for the `accepted` paths."""
    with ThreadingHTTPServer(("127.0.0.1", port), _Refusing) as server:
        server.accepted = accepted  # type: ignore[attr-defined]
        thread = Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()
