"""S2: clients that ask the HTTP service for too much, for too long, or while it ends."""

import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np

from tests.documented import ROOT
from tests.faults.experiment import Experiment, Trial
from tests.malformed import encode
from tests.serving.http.overload import LoadedService, head, status_of
from tests.serving.http.serving_process import received, serving
from tests.tiny_onnx import coloured, write_colour_model

_MEGABYTE = 2**20
_HALF_OPEN, _CLOSED_SECONDS = 200, 15
_REFUSED_MILLISECONDS = 100
_ENDED_SECONDS = 10
_BLOCK = 1000
_MOST_GROWTH_MB = 20
_UPLOADS = 20

Run = Callable[[int, Path], Iterator[Trial]]


@contextmanager
def loaded_service(folder: Path, image: bytes | None = None, **environment: str) -> Iterator[LoadedService]:
    """Yield a service of a small network, and the load generator with `image`."""
    write_colour_model(folder / "colours" / "model.onnx")
    words = ("--checkpoint_name=colours/model.onnx", "serving.drift=null")
    with serving(folder, *words, environment=environment) as served:
        yield LoadedService(served, image or encode(coloured(0), "PNG"), folder)


def large_bodies(number: int, folder: Path) -> Iterator[Trial]:
    """Send bodies of 10 to 12 MB, by turns announced and in chunks."""
    with loaded_service(folder) as service:
        for seed in range(number):
            size = random.Random(seed).randint(10 * _MEGABYTE + 1, 12 * _MEGABYTE)
            is_announced = seed % 2 == 0
            status = service.large_body(size, is_announced)
            kind = "announced" if is_announced else "in chunks"
            yield Trial(f"{size:,} bytes, {kind}", "" if status == 413 else f"status {status}")


def half_open_sockets(number: int, folder: Path) -> Iterator[Trial]:
    """Open `number` connections that send no more, beside good requests; with all 200, these are timed."""
    is_timed = number >= _HALF_OPEN
    with loaded_service(folder) as service:
        idle = [_p99(service.load("--rate=50", "--seconds=10"))] if is_timed else []
        found = service.half_open(number)
        idle += [_p99(service.load("--rate=50", "--seconds=10"))] if is_timed else []
    for position, seconds in enumerate(found["closed_after"]):
        problem = f"closed after {seconds:.1f} s" if seconds > _CLOSED_SECONDS else ""
        if position == number - 1:
            problem = problem or _beside(found["good"], max(idle, default=float("inf")))
        yield Trial(f"half-open connection {position + 1} of {number}", problem)


def _beside(good: dict[str, Any], idle: float) -> str:
    """Return what is wrong with good requests; `idle` is the larger p99 of those before and after, in milliseconds."""
    if set(good["statuses"]) != {"200"}:
        return f"good requests were answered {good['statuses']}"
    p99 = _p99(good)
    return f"p99 of good requests is {p99:.1f} ms, without the others {idle:.1f} ms" if p99 >= 2 * idle else ""


def _p99(found: dict[str, Any]) -> float:
    return float(found["milliseconds"]["200"]["p99"])


def overload(number: int, folder: Path) -> Iterator[Trial]:
    """Send four times as many requests as can be answered: once for 5 s, or `number` times for a minute."""
    image = encode(np.full((1000, 1000, 3), 90, np.uint8), "PNG")  # so that the service has more to do than the client
    seconds, most = (60, _REFUSED_MILLISECONDS) if number > 1 else (5, 10 * _REFUSED_MILLISECONDS)
    with loaded_service(folder, image=image) as service:
        for _ in range(number):
            found = service.overload(seconds)
            yield Trial(f"{4 * found['capacity']:.0f} requests a second for {seconds} s", _overloaded(found, most))


def _overloaded(found: dict[str, Any], most: float) -> str:
    """Return what is wrong with the answers under overload; those that are refused may take `most` milliseconds."""
    if others := {status: n for status, n in found["statuses"].items() if status not in ("200", "503")}:
        return f"other answers than 200 and 503: {others}"
    refused, answered = found["milliseconds"].get("503"), found["per_second"].get("200", 0)
    if refused is None:
        return "nothing was refused"
    if refused["p99"] > most:
        return f"p99 of what is refused is {refused['p99']:.0f} ms"
    return f"{answered:.0f} a second were answered" if answered < found["capacity"] / 2 else ""


def soak(leaking: str = "") -> Run:
    def run(number: int, folder: Path) -> Iterator[Trial]:
        """Send `number` thousands of requests; memory after the first tenth is what later ones are compared with."""
        (folder / "sitecustomize.py").write_text(leaking)
        memory: list[float] = []
        with loaded_service(folder, PYTHONPATH=os.pathsep.join([str(folder), str(ROOT)])) as service:
            for block in range(number):
                found = service.soak(_BLOCK)
                memory.append(found["memory"])
                growth = memory[-1] - max(memory[: max(number // 10, 1)])
                problem = f"memory has grown by {growth:.0f} MB" if growth > _MOST_GROWTH_MB else ""
                if found["statuses"] != {"200": _BLOCK}:
                    problem = f"the answers are {found['statuses']}"
                yield Trial(f"requests {block * _BLOCK:,} to {(block + 1) * _BLOCK:,}", problem)

    return run


def endings(is_killed: bool = False) -> Run:
    def run(number: int, folder: Path) -> Iterator[Trial]:
        """End the service under load, at another moment each time, in the middle of 20 uploads."""
        for seed in range(number):
            place = folder / str(seed)
            place.mkdir()
            after = random.Random(seed).uniform(0.5, 2)
            with loaded_service(place) as service:
                yield Trial(f"SIGTERM after {after:.1f} s of load", _ending(service, after, is_killed))

    return run


def _ending(service: LoadedService, after: float, is_killed: bool) -> str:
    image, process = encode(coloured(1), "PNG"), service.served.process
    with ExitStack() as stack:
        found: list[dict[str, Any]] = []
        load = Thread(target=lambda: found.append(service.load("--connections=32", f"--seconds={after + 1}")))
        load.start()
        time.sleep(after)
        uploads = [stack.enter_context(service.served.connect()) for _ in range(_UPLOADS)]
        for connection in uploads:
            connection.sendall(head(len(image), "Connection: close") + image[:50])
        time.sleep(0.3)
        process.terminate()
        for worker in service.served.workers() if is_killed else ():
            worker.kill()
        started = time.monotonic()
        time.sleep(0.3)
        statuses = [_completed(connection, image[50:]) for connection in uploads]
        exit_code, seconds = process.wait(30), time.monotonic() - started
        load.join()
    if lost := [status for status in statuses if status != 200]:
        return f"{len(lost)} of {_UPLOADS} requests in progress were answered {lost[0]}"
    if exit_code or seconds > _ENDED_SECONDS:
        return f"exit code {exit_code} after {seconds:.1f} s"
    wrong = {status for status in found[0]["statuses"] if status.isdigit() and status != "200"}
    return f"requests of the load were answered {wrong}" if wrong else ""


def _completed(connection: Any, rest: bytes) -> int:
    """Send the rest of a body, and return the status code of the answer, 0 for none."""
    try:
        connection.sendall(rest)
    except ConnectionError:
        return 0
    return status_of(received(connection))


_LEAKING = """
from cifar10.serving.http import guard

kept, received = [], guard._received
guard._received = lambda body: kept.append(bytes(100_000)) or received(body)
"""

LARGE_BODIES = Experiment(
    row="S2",
    name="large_bodies",
    claim="Bodies over 10 MB are refused with 413, announced or in chunks.",
    run=large_bodies,
    short=2,
    full=50,
)
HALF_OPEN_SOCKETS = Experiment(
    row="S2",
    name="half_open_sockets",
    claim="Connections that send no more are closed within 15 s, and good requests are answered meanwhile, their p99 "
    "less than twice that without such connections.",
    run=half_open_sockets,
    short=40,
    full=_HALF_OPEN,
)
OVERLOAD = Experiment(
    row="S2",
    name="overload",
    claim="Of four times as many requests as can be answered, those beyond the limit get 503, p99 within 100 ms.",
    run=overload,
    short=1,
    full=3,
)
SOAK = Experiment(
    row="S2",
    name="soak",
    claim="100,000 requests are answered, and memory grows by 20 MB at most.",
    run=soak(),
    short=2,
    full=100,
    control=lambda _, folder: soak(_LEAKING)(2, folder),
)
ENDINGS = Experiment(
    row="S2",
    name="endings_under_load",
    claim="After SIGTERM under load, all requests in progress are answered, and the service ends within 10 s.",
    run=endings(),
    short=1,
    full=20,
    control=lambda _, folder: endings(is_killed=True)(1, folder),
)
