"""Load on an HTTP server of this machine, in a process of its own: the same requests over and over.

    python benchmarks/load.py --port 8000 --requests FILE --connections 8 --seconds 5
    python benchmarks/load.py --port 8000 --requests FILE --rate 200 --seconds 10

FILE holds complete requests, HTTP/1.1 with Content-Length, as JSON: a list of base64. Prints JSON: the status codes
and the latency of each request in seconds. Without --rate, each connection sends its next request when it has its
answer (closed loop). With --rate, requests are sent at random times of that mean rate, whether others are answered or
not; the latency counts from the time that each was due (open loop). Only 127.0.0.1 is loaded.
"""

import argparse
import asyncio
import base64
import gc
import itertools
import json
import random
import re
import time
from collections import Counter
from pathlib import Path

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_MOST_SECONDS = 600


class Connection(asyncio.Protocol):
    """A connection that is kept, with one request at a time."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self._buffer = b""
        self._answer: asyncio.Future[int] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, end, body = self._buffer.partition(b"\r\n\r\n")
        if not end:
            return
        found = _LENGTH.search(head)
        if found is not None and len(body) < int(found[1]):
            return
        if found is None and b"chunked" in head.lower() and not body.endswith(b"0\r\n\r\n"):
            return
        self._buffer = b""
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(int(head.split(b" ", 2)[1]))

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionError("closed"))

    async def ask(self, request: bytes) -> int:
        """Return the status code of the answer.

        Raises:
            ConnectionError: The server has closed the connection.
        """
        if self.transport is None:
            raise ConnectionError("closed")
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return await self._answer


async def connected(port: int) -> Connection:
    _, connection = await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", port)
    return connection


class Load:
    """Sends requests, and notes what comes back."""

    def __init__(self, port: int, requests: list[bytes]) -> None:
        self.port = port
        self.requests = itertools.cycle(requests)
        self.statuses: Counter[str] = Counter()
        self.latencies: dict[str, list[float]] = {}
        self.idle: list[Connection] = []

    async def ask(self, due: float) -> None:
        """Send a request now that was due at `due`; a closed connection is replaced once."""
        for attempt in range(2):
            try:
                connection = self.idle.pop() if self.idle else await connected(self.port)
                while connection.transport is None:
                    connection = self.idle.pop() if self.idle else await connected(self.port)
                status = str(await asyncio.wait_for(connection.ask(next(self.requests)), 60))
            except (OSError, TimeoutError) as error:
                status = type(error).__name__
                if attempt == 0 and isinstance(error, ConnectionError):
                    continue
            else:
                self.idle.append(connection)
            self.statuses[status] += 1
            self.latencies.setdefault(status, []).append(time.perf_counter() - due)
            return

    async def closed_loop(self, connections: int, seconds: float, most: int | None) -> float:
        """Return the seconds that it took."""
        started, left = time.perf_counter(), itertools.count()

        async def one() -> None:
            while time.perf_counter() - started < seconds and (most is None or next(left) < most):
                await self.ask(time.perf_counter())

        await asyncio.gather(*(one() for _ in range(connections)))
        return time.perf_counter() - started

    async def open_loop(self, rate: float, seconds: float, seed: int) -> float:
        """Return the seconds that it took until all were answered."""
        rng, pending = random.Random(seed), set[asyncio.Task[None]]()
        started = time.perf_counter()
        due = started
        while due < started + seconds:
            due += rng.expovariate(rate)
            wait = due - time.perf_counter()
            if wait > 0:
                await asyncio.sleep(wait)
            task = asyncio.create_task(self.ask(due))
            pending.add(task)
            task.add_done_callback(pending.discard)
        await asyncio.gather(*pending)
        return time.perf_counter() - started


async def run(arguments: argparse.Namespace) -> dict[str, object]:
    gc.disable()  # a collection takes 100 ms once there are many latencies
    requests = [base64.b64decode(text) for text in json.loads(arguments.requests.read_text())]
    load = Load(arguments.port, requests)
    if arguments.rate is None:
        took = await load.closed_loop(arguments.connections, arguments.seconds, arguments.most)
    else:
        took = await load.open_loop(arguments.rate, arguments.seconds, arguments.seed)
    return {"seconds": took, "statuses": load.statuses, "latencies": load.latencies}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--requests", type=Path, required=True)
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--rate", type=float, help="requests a second; then --connections does not matter")
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--most", type=int, help="requests in all, in a closed loop")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.seconds = min(arguments.seconds, _MOST_SECONDS)
    print(json.dumps(asyncio.run(run(arguments))))


if __name__ == "__main__":
    main()
