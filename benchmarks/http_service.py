"""Does our HTTP service answer more single images a second, and sooner, than other servers with the same ONNX file?

    python benchmarks/http_service.py --model FILE.onnx --root data --peers /path/to/python [--rounds 3]

Single PNG images of CIFAR-10's test split in base64 in JSON, each server alone, in turn. Loads: one connection, 8 and
32 in a closed loop; then requests at random times, as many a second for all. Without test-time augmentation. `--peers`
names a Python with litserve and ray[serve]; without it, only `mlflow models serve` is compared. `--variant` adds our
service with another setting. Memory is the proportional set size of all processes of a server, at the end.
"""

import argparse
import base64
import contextlib
import io
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
import psutil
from measuring import ratio, spread, table, write_results
from PIL import Image

from cifar10.config.build import build
from cifar10.config.compose import load_config
from cifar10.config.conf_folder import PROJECT
from cifar10.config.targets import DATA
from cifar10.inference.description import KEY
from cifar10.inference.seal import sealed

HERE = Path(__file__).parent
NUM_IMAGES = 200
LOADS = {"1 connection": 1, "8 connections": 8, "32 connections": 32}


@dataclass
class Server:
    """How a server is started and asked."""

    title: str
    line: list[str]
    path: str
    body: str
    """JSON with IMAGE in the place of the image."""
    probe: str | None = None
    """Path that answers 200 when the server is ready; None: the image itself."""
    environment: dict[str, str] = field(default_factory=dict)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--root", default="data")
    parser.add_argument("--peers", help="a Python with litserve and ray[serve]")
    parser.add_argument("--variant", help="such as serving.batch_images=1")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--rate", type=float, default=100, help="requests a second of the equal load")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        model = without_augmentation(arguments.model, folder / "run" / "model.onnx")
        servers = servers_of(model, folder, arguments.peers, arguments.variant)
        images = encoded_images(arguments.root)
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in servers}
        for number in range(arguments.rounds):
            names = list(servers)
            for name in names[number % len(names) :] + names[: number % len(names)]:
                found[name].append(measured(servers[name], images, folder, arguments))
                print(f"round {number + 1}: {name}: {summary(found[name][-1])}", file=sys.stderr, flush=True)
    body = report(servers, found, arguments)
    write_results("http_service", "HTTP services with the same ONNX file", body, {"rounds": found})


def without_augmentation(source: Path, target: Path) -> Path:
    """Copy an exported file, with the setting to compute each image once."""
    model = onnx.load(source)
    properties = {entry.key: entry.value for entry in model.metadata_props}
    description = json.loads(properties[KEY]) | {"tta": "none", "file_digest": None}
    onnx.helper.set_model_props(model, properties | {KEY: json.dumps(description)})
    target.parent.mkdir(parents=True)
    target.write_bytes(sealed(model.SerializeToString()))
    return target


def servers_of(model: Path, folder: Path, peers: str | None, variant: str | None) -> dict[str, Server]:
    environment = {"PYTHONPATH": str(PROJECT), "RAY_USAGE_STATS_ENABLED": "0"}
    script = str(HERE / "served_by_peers.py")
    subprocess.run(
        [sys.executable, script, "mlflow", str(model), str(folder / "mlflow")],
        check=True,
        env={**os.environ, **environment},
    )
    mlflow = [str(Path(sys.executable).with_name("mlflow")), "models", "serve", "-m", str(folder / "mlflow")]
    ours = [sys.executable, str(PROJECT / "commands.py"), "serve", f"--checkpoint_name={model}", "serving.drift=null"]
    asked = ("/predict?top_k=10", '{"image": "IMAGE"}', "/readyz")
    servers = {
        "ours": Server("cifar10 serve", [*ours, "--port=PORT"], *asked),
        "mlflow": Server(
            "mlflow models serve",
            [*mlflow, "--env-manager", "local", "--port", "PORT", "--host", "127.0.0.1"],
            "/invocations",
            '{"inputs": ["IMAGE"]}',
            "/ping",
            {**environment, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        ),
    }
    if variant is not None:
        servers[variant] = Server(f"cifar10 serve {variant}", [*ours, variant, "--port=PORT"], *asked)
    if peers is not None:
        for name, title in (("litserve", "LitServe"), ("ray", "Ray Serve")):
            line = [peers, script, name, str(model), "PORT"]
            servers[name] = Server(title, line, "/predict", '{"image": "IMAGE"}', None, environment)
    return servers


def encoded_images(root: str) -> list[str]:
    """Return PNG images of the test split in base64."""
    texts = []
    config = load_config([f"data_loading.root={root}"])
    pixels, _ = build(DATA, config.data_loading).test.arrays()
    for image in pixels[:NUM_IMAGES]:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        texts.append(base64.b64encode(buffer.getvalue()).decode())
    return texts


@contextlib.contextmanager
def started(server: Server, images: Sequence[str], folder: Path) -> Iterator[tuple[int, int]]:
    """Yield the port of a server that answers, and its process id."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    line = [word.replace("PORT", str(port)) for word in server.line]
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(
            line, cwd=folder, env={**os.environ, **server.environment}, stdout=log, stderr=log, start_new_session=True
        )
    try:
        wait_until_ready(server, port, images, process, folder / "server.log")
        yield port, process.pid
    finally:
        children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.terminate()
        _, alive = psutil.wait_procs([*children, psutil.Process(process.pid)] if children else [], timeout=10)
        for child in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        process.wait(20)


def wait_until_ready(
    server: Server, port: int, images: Sequence[str], process: "subprocess.Popen[bytes]", log: Path
) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"{server.title} has ended: {log.read_text()[-2000:]}")
        try:
            if server.probe is None:
                data = server.body.replace("IMAGE", images[0]).encode()
                request = urllib.request.Request(
                    f"http://127.0.0.1:{port}{server.path}", data, {"Content-Type": "application/json"}
                )
            else:
                request = urllib.request.Request(f"http://127.0.0.1:{port}{server.probe}")
            with urllib.request.urlopen(request, timeout=5) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"{server.title} was not ready in time: {log.read_text()[-2000:]}")


def measured(server: Server, images: Sequence[str], folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    requests = folder / "requests.json"
    requests.write_text(json.dumps([base64.b64encode(request_of(server, image)).decode() for image in images]))
    began = time.monotonic()
    with started(server, images, folder) as (port, pid):
        found: dict[str, Any] = {"ready_after": time.monotonic() - began}
        load(port, requests, "--connections=4", "--seconds=2")  # warms
        for name, connections in LOADS.items():
            found[name] = load(port, requests, f"--connections={connections}", f"--seconds={arguments.seconds}")
        found["equal"] = load(port, requests, f"--rate={arguments.rate}", f"--seconds={arguments.seconds}")
        found["memory"] = memory_of(pid)
    return found


def request_of(server: Server, image: str) -> bytes:
    body = server.body.replace("IMAGE", image).encode()
    head = (
        f"POST {server.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def load(port: int, requests: Path, *words: str) -> dict[str, Any]:
    """Return requests a second and percentiles in milliseconds."""
    line = [sys.executable, str(HERE / "load.py"), f"--port={port}", f"--requests={requests}", *words]
    found = json.loads(subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True).stdout)
    latencies = sorted(found["latencies"].get("200", []))
    if not latencies:
        raise RuntimeError(f"no request was answered: {found['statuses']}")
    quantiles = statistics.quantiles(latencies, n=100, method="inclusive")
    return {
        "statuses": found["statuses"],
        "per_second": len(latencies) / found["seconds"],
        **{f"p{percent}": 1000 * quantiles[percent - 1] for percent in (50, 95, 99)},
    }


def memory_of(pid: int) -> float:
    """Return the proportional set size of a process and all below it, in MB."""
    process = psutil.Process(pid)
    total = 0
    for each in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            total += each.memory_full_info().pss
    return total / 1e6


def summary(found: Mapping[str, Any]) -> str:
    parts = [f"{name} {found[name]['per_second']:.0f}/s p99 {found[name]['p99']:.1f} ms" for name in (*LOADS, "equal")]
    return f"{', '.join(parts)}, {found['memory']:.0f} MB"


def report(
    servers: Mapping[str, Server], found: Mapping[str, list[dict[str, Any]]], arguments: argparse.Namespace
) -> list[str]:
    rows = []
    for name, server in servers.items():
        for load_name in (*LOADS, "equal"):
            rounds = [each[load_name] for each in found[name]]
            errors = sum(count for each in rounds for status, count in each["statuses"].items() if status != "200")
            shown = f"{arguments.rate:g} a second" if load_name == "equal" else load_name
            cells = [spread([each[key] for each in rounds], 1) for key in ("per_second", "p50", "p95", "p99")]
            rows.append([server.title, shown, *cells, errors])
    lines = [
        f"{arguments.rounds} rounds, each server alone, started anew in each; {arguments.seconds:g} s for each load.",
        "Medians, in brackets the range. The load generator (load.py) shares the two cores.",
        "",
        *table(["server", "load", "requests/s", "p50, ms", "p95, ms", "p99, ms", "not 200"], rows),
        "",
        *table(
            ["server", "memory, MB", "ready after, s"],
            [
                [server.title, *(spread([each[key] for each in found[name]], 1) for key in ("memory", "ready_after"))]
                for name, server in servers.items()
            ],
        ),
        "",
    ]
    for name, server in servers.items():
        if name == "ours":
            continue
        for load_name in (*LOADS, "equal"):
            faster = ratio(
                [each[load_name]["per_second"] for each in found["ours"]],
                [each[load_name]["per_second"] for each in found[name]],
            )
            sooner = ratio(
                [each[load_name]["p99"] for each in found["ours"]], [each[load_name]["p99"] for each in found[name]]
            )
            lines.append(f"- ours over {server.title}, {load_name}: requests/s {faster}, p99 {sooner}")
    return lines


if __name__ == "__main__":
    main()
