"""Does the HTTP service hold out against clients that ask for too much, and how does it end?

    python benchmarks/http_faults.py --model FILE.onnx [--soak 100000] [--overload_seconds 60]

Bodies over the limit; 200 connections that send nothing, half a header or half a body, beside good ones; four times as
many requests as it can answer; SIGTERM under load; and a long soak, whose memory is watched. The load generator
(load.py) shares the two cores with the service. Without test-time augmentation.
"""

import argparse
import base64
import io
import json
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import requests
from measuring import write_results
from PIL import Image

from cifar10.config.conf_folder import PROJECT

HERE = Path(__file__).parent
PORT = 8123
HALF_OPEN = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--soak", type=int, default=100_000, help="requests")
    parser.add_argument("--overload_seconds", type=float, default=60)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as text, service(arguments.model, Path(text)) as process:
        folder = Path(text)
        prepare(folder)
        found: dict[str, Any] = {"large": large_bodies()}
        show(found, "large")
        found["idle"] = load(folder, "--rate=50", "--seconds=10")
        found["half_open"] = half_open(folder)
        show(found, "half_open")
        capacity = load(folder, "--connections=32", "--seconds=5")["per_second"]["200"]
        found["overload"] = {
            "capacity": capacity,
            **load(folder, f"--rate={4 * capacity}", f"--seconds={arguments.overload_seconds}"),
        }
        show(found, "overload")
        found["soak"] = soak(folder, process, arguments.soak)
        show(found, "soak")
        found["end"] = end(folder, process)
        show(found, "end")
    write_results("http_faults", "The HTTP service under clients that ask for too much", report(found), found)


def show(found: dict[str, Any], name: str) -> None:
    print(name, json.dumps(found[name]), file=sys.stderr, flush=True)


@contextmanager
def service(model: Path, folder: Path) -> Iterator["subprocess.Popen[bytes]"]:
    words = [f"--checkpoint_name={model.absolute()}", "--tta=none", f"--port={PORT}"]
    process = subprocess.Popen([sys.executable, str(PROJECT / "commands.py"), "serve", *words], cwd=folder)
    try:
        while True:
            with suppress(requests.ConnectionError):
                if requests.get(f"http://127.0.0.1:{PORT}/readyz", timeout=5).status_code == 200:
                    break
            assert process.poll() is None
            time.sleep(0.1)
        yield process
    finally:
        process.terminate()
        process.wait(20)


def head(length: int | None, *lines: str) -> bytes:
    first = ["POST /predict HTTP/1.1", "Host: 127.0.0.1", "Content-Type: image/png"]
    size = [] if length is None else [f"Content-Length: {length}"]
    return ("\r\n".join([*first, *size, *lines]) + "\r\n\r\n").encode()


def image() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def prepare(folder: Path) -> None:
    data = image()
    (folder / "requests.json").write_text(json.dumps([base64.b64encode(head(len(data)) + data).decode()]))


def load(folder: Path, *words: str) -> dict[str, Any]:
    """Return, by status, requests a second and percentiles in milliseconds."""
    line = [sys.executable, str(HERE / "load.py"), f"--port={PORT}", f"--requests={folder / 'requests.json'}", *words]
    found = json.loads(subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True).stdout)
    per_second = {status: count / found["seconds"] for status, count in found["statuses"].items()}
    quantiles = {status: percentiles(values) for status, values in found["latencies"].items()}
    return {"statuses": found["statuses"], "per_second": per_second, "milliseconds": quantiles}


def percentiles(latencies: Sequence[float]) -> dict[str, float]:
    if len(latencies) < 2:
        return {"p50": 1000 * sum(latencies)}
    quantiles = statistics.quantiles(latencies, n=1000, method="inclusive")
    places = {"p50": 499, "p99": 989, "p99.9": 998}
    return {name: 1000 * quantiles[place] for name, place in places.items()} | {"largest": 1000 * max(latencies)}


def large_bodies() -> dict[str, Any]:
    """Return the status codes of bodies of 11 MB: announced, and in chunks."""
    chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    kinds = {
        "by length": head(11 * 2**20) + b"x" * 1000,
        "in chunks": head(None, "Transfer-Encoding: chunked") + chunk * 176,
    }
    return {name: status_of(data) for name, data in kinds.items()}


def status_of(data: bytes) -> int:
    with closing(socket.create_connection(("127.0.0.1", PORT), timeout=20)) as connection:
        with suppress(OSError):
            connection.sendall(data)
        return int(connection.recv(1000).split(b" ", 2)[1])


def half_open(folder: Path) -> dict[str, Any]:
    """Open connections that send no more, load good ones meanwhile, and return when the others were closed."""
    opened = []
    for number in range(HALF_OPEN):
        connection = socket.create_connection(("127.0.0.1", PORT), timeout=30)
        # at most as many bodies that do not arrive as there are places for, less those for the good ones
        connection.sendall((b"", b"POST /pre", b"POST /pre", head(1000) + b"half")[number % 4])
        opened.append(connection)
    started = time.monotonic()
    good = load(folder, "--rate=50", "--seconds=8")
    for connection in opened:
        with suppress(OSError):
            while connection.recv(65536):
                pass
        connection.close()
    return {"closed_after": time.monotonic() - started, "good": good}


def soak(folder: Path, process: "subprocess.Popen[bytes]", number: int) -> dict[str, Any]:
    """Send `number` requests in tenths, and return the memory after each, in MB, and the status codes."""
    memory: list[float] = []
    statuses: dict[str, int] = {}
    for _ in range(10):
        part = load(folder, "--connections=8", "--seconds=600", f"--most={number // 10}")
        for status, count in part["statuses"].items():
            statuses[status] = statuses.get(status, 0) + count
        memory.append(memory_of(process))
    return {"statuses": statuses, "memory": memory}


def memory_of(process: "subprocess.Popen[bytes]") -> float:
    ours = psutil.Process(process.pid)
    return float(sum(each.memory_full_info().uss for each in (ours, *ours.children(recursive=True)))) / 1e6


def end(folder: Path, process: "subprocess.Popen[bytes]") -> dict[str, Any]:
    """Send SIGTERM under load, and return what became of the requests that had been sent."""
    line = [sys.executable, str(HERE / "load.py"), f"--port={PORT}", f"--requests={folder / 'requests.json'}"]
    client = subprocess.Popen([*line, "--connections=32", "--seconds=4"], stdout=subprocess.PIPE, text=True)
    time.sleep(2)
    process.send_signal(signal.SIGTERM)
    started = time.monotonic()
    exit_code = process.wait(30)
    took = time.monotonic() - started
    found = json.loads(client.communicate()[0])
    return {"exit_code": exit_code, "seconds": took, "statuses": found["statuses"]}


def report(found: dict[str, Any]) -> list[str]:
    idle, beside = found["idle"]["milliseconds"]["200"], found["half_open"]["good"]["milliseconds"]["200"]
    over, soaked, ended = found["overload"], found["soak"], found["end"]
    refused, answered = over["milliseconds"].get("503", {}), over["milliseconds"]["200"]
    others = {status: count for status, count in over["statuses"].items() if status not in ("200", "503")}
    known = ("200", "ConnectionRefusedError")
    lost = {status: count for status, count in ended["statuses"].items() if status not in known}
    memory, large = soaked["memory"], found["large"].items()
    return [
        f"- bodies of 11 MB: {', '.join(f'{name} {status}' for name, status in large)}",
        f"- {HALF_OPEN} connections that send no more: all closed after {found['half_open']['closed_after']:.1f} s",
        f"- good requests beside them, 50 a second: {found['half_open']['good']['statuses']}, p99 {beside['p99']:.1f} "
        f"ms; alone {idle['p99']:.1f} ms; {beside['p99'] / idle['p99']:.2f} times",
        f"- four times the capacity ({over['capacity']:.0f} a second):",
        f"  - {over['statuses'].get('503', 0):,} refused with 503, p50 {refused.get('p50', 0):.1f} ms, "
        f"p99 {refused.get('p99', 0):.1f} ms, largest {refused.get('largest', 0):.1f} ms",
        f"  - {over['per_second']['200']:.0f} a second answered, p50 {answered['p50']:.1f} ms, "
        f"p99 {answered['p99']:.1f} ms; others: {others or 'none'}",
        f"- {sum(soaked['statuses'].values()):,} requests: {soaked['statuses']}; memory after the first tenth "
        f"{memory[0]:.1f} MB, at the end {memory[-1]:.1f} MB",
        f"- SIGTERM under load of 32 connections: exit {ended['exit_code']} after {ended['seconds']:.2f} s; answered "
        f"{ended['statuses'].get('200', 0):,}, lost {lost or 'none'}",
    ]


if __name__ == "__main__":
    main()
