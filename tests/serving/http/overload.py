"""Load on a real service, and clients that ask for too much: measured from outside, by benchmarks/load.py."""

import base64
import json
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from tests.documented import ROOT
from tests.serving.http.serving_process import Served


def head(length: int | None, *lines: str, kind: str = "image/png") -> bytes:
    """Return the first lines of a request to `/predict`; without a length, `lines` say how the body is sent."""
    first = ["POST /predict HTTP/1.1", "Host: 127.0.0.1", f"Content-Type: {kind}"]
    size = [] if length is None else [f"Content-Length: {length}"]
    return ("\r\n".join([*first, *size, *lines]) + "\r\n\r\n").encode()


class LoadedService:
    """A service, and the load generator with one request, which is sent over and over.

    Args:
        served: Answers.
        image: Encoded, of which the request consists.
        folder: For the request.
    """

    def __init__(self, served: Served, image: bytes, folder: Path) -> None:
        self.served = served
        self._requests = folder / "requests.json"
        self._requests.write_text(json.dumps([base64.b64encode(head(len(image)) + image).decode()]))

    def load(self, *words: str) -> dict[str, Any]:
        """Return, by status, the number of answers, answers a second, and percentiles in milliseconds."""
        found = json.loads(subprocess.run(self._line(words), check=True, stdout=subprocess.PIPE, text=True).stdout)
        per_second = {status: number / found["seconds"] for status, number in found["statuses"].items()}
        quantiles = {status: percentiles(values) for status, values in found["latencies"].items()}
        return {"statuses": found["statuses"], "per_second": per_second, "milliseconds": quantiles}

    def overload(self, seconds: float, times: float = 4) -> dict[str, Any]:
        """Send `times` as many requests as can be answered, and return what `load` does, and the capacity."""
        capacity = self.load("--connections=32", "--seconds=5")["per_second"]["200"]
        return {"capacity": capacity, **self.load(f"--rate={times * capacity}", f"--seconds={seconds}")}

    def half_open(self, number: int, rate: float = 50) -> dict[str, Any]:
        """Open connections that send no more, load good ones meanwhile, and return when the others were closed.

        Connections send nothing, half a header, or, one of four, half a body: at most as many as there are places
        for, less those for the good ones.
        """
        opened = []
        for position in range(number):
            connection = self.served.connect()
            connection.sendall((b"", b"POST /pre", b"POST /pre", head(1000) + b"half")[position % 4])
            opened.append(connection)
        started = time.monotonic()
        good = self.load(f"--rate={rate}", "--seconds=8")
        closed = []
        for connection in opened:
            with suppress(OSError):
                while connection.recv(65536):
                    pass
            closed.append(time.monotonic() - started)
            connection.close()
        return {"closed_after": closed, "good": good}

    def large_body(self, num_bytes: int, is_announced: bool) -> int:
        """Return the status code that a body of this size gets: announced and not sent, or sent in chunks."""
        if is_announced:
            return status_of(self.served.raw(head(num_bytes) + b"x" * 1000))
        chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
        return status_of(
            self.served.raw(head(None, "Transfer-Encoding: chunked") + chunk * -(-num_bytes // 65536) + b"0\r\n\r\n")
        )

    def soak(self, number: int) -> dict[str, Any]:
        """Send requests on eight connections; return their status codes, and the memory afterwards in MB."""
        found = self.load("--connections=8", "--seconds=600", f"--most={number}")
        return {"statuses": found["statuses"], "memory": self.memory()}

    def memory(self) -> float:
        """Return the MB that only the processes of the service use."""
        ours = psutil.Process(self.served.process.pid)
        return float(sum(each.memory_full_info().uss for each in (ours, *ours.children(recursive=True)))) / 1e6

    def end(self, after: float = 2) -> dict[str, Any]:
        """Send SIGTERM under load, and return what became of the requests that had been sent."""
        words = ("--connections=32", f"--seconds={after + 2}")
        client = subprocess.Popen(self._line(words), stdout=subprocess.PIPE, text=True)
        time.sleep(after)
        self.served.process.send_signal(signal.SIGTERM)
        started = time.monotonic()
        exit_code = self.served.process.wait(30)
        took = time.monotonic() - started
        found = json.loads(client.communicate()[0])
        return {"exit_code": exit_code, "seconds": took, "statuses": found["statuses"]}

    def _line(self, words: Sequence[str]) -> list[str]:
        program = str(ROOT / "benchmarks/load.py")
        return [sys.executable, program, f"--port={self.served.port}", f"--requests={self._requests}", *words]


def percentiles(latencies: Sequence[float]) -> dict[str, float]:
    if len(latencies) < 2:
        return {"p50": 1000 * sum(latencies)}
    quantiles = statistics.quantiles(latencies, n=1000, method="inclusive")
    places = {"p50": 499, "p99": 989, "p99.9": 998}
    return {name: 1000 * quantiles[place] for name, place in places.items()} | {"largest": 1000 * max(latencies)}


def status_of(answer: bytes) -> int:
    """Return the status code of an answer, 0 for none."""
    return int(answer.split(b" ", 2)[1]) if answer else 0
