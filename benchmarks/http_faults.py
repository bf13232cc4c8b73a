"""Does the HTTP service hold out against clients that ask for too much, and how does it end?

    python benchmarks/http_faults.py --model FILE.onnx [--soak 100000] [--overload_seconds 60]

Bodies over the limit; 200 connections that send nothing, half a header or half a body, beside good ones; four times as
many requests as it can answer; SIGTERM under load; and a long soak, whose memory is watched. The load generator
(load.py) shares the two cores with the service. Without test-time augmentation.
"""

import argparse
import json
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from measuring import REPOSITORY, write_results

sys.path.insert(0, str(REPOSITORY))

from tests.malformed import encode
from tests.serving.http.overload import LoadedService
from tests.serving.http.serving_process import serving

_HALF_OPEN = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--soak", type=int, default=100_000, help="requests")
    parser.add_argument("--overload_seconds", type=float, default=60)
    arguments = parser.parse_args()
    image = encode(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8), "PNG")
    words = (f"--checkpoint_name={arguments.model.absolute()}", "--tta=none")
    with tempfile.TemporaryDirectory() as text, serving(Path(text), *words) as served:
        service = LoadedService(served, image, Path(text))
        large = {"by length": service.large_body(11 * 2**20, True), "in chunks": service.large_body(11 * 2**20, False)}
        found: dict[str, Any] = {"large": large}
        show(found, "large")
        found["idle"] = service.load("--rate=50", "--seconds=10")
        opened = service.half_open(_HALF_OPEN)
        found["half_open"] = {**opened, "closed_after": max(opened["closed_after"])}
        show(found, "half_open")
        found["overload"] = service.overload(arguments.overload_seconds)
        show(found, "overload")
        found["soak"] = soak(service, arguments.soak)
        show(found, "soak")
        found["end"] = service.end()
        show(found, "end")
    write_results("http_faults", "The HTTP service under clients that ask for too much", report(found), found)


def show(found: dict[str, Any], name: str) -> None:
    print(name, json.dumps(found[name]), file=sys.stderr, flush=True)


def soak(service: LoadedService, number: int) -> dict[str, Any]:
    """Send `number` requests in tenths, and return the memory after each, in MB, and the status codes."""
    parts = [service.soak(number // 10) for _ in range(10)]
    statuses: Counter[str] = sum((Counter(part["statuses"]) for part in parts), Counter())
    return {"statuses": dict(statuses), "memory": [part["memory"] for part in parts]}


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
        f"- {_HALF_OPEN} connections that send no more: all closed after {found['half_open']['closed_after']:.1f} s",
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
