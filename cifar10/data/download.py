"""Download one file of known size over HTTP: resumable, with progress, and with timeouts for slow servers."""

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import requests
from tqdm import tqdm
from urllib3.exceptions import HTTPError, ProtocolError, ReadTimeoutError

CHUNK = 16_384  # bytes; small, so that a slow server is noticed soon
SECONDS_BETWEEN_LINES = 10


class SourceFailed(Exception):
    """This source does not give the file; the message says why. Another may."""


@dataclass(frozen=True)
class Patience:
    """When to give a server up."""

    connect: float = 10
    """Seconds to wait for a connection."""
    read: float = 30
    """Seconds to wait for the next bytes."""
    slowest: float = 100_000
    """Bytes per second below which another source is tried, if one is left."""
    window: float = 30
    """Seconds over which that rate is measured."""
    fruitless: int = 3
    """Attempts in a row that reach the server and bring no byte, before it is given up."""
    pause: float = 1
    """Seconds before an attempt that follows a fruitless one."""


def download(url: str, part: Path, size: int, patience: Patience, is_last: bool) -> None:
    """Fill `part` up to `size` bytes from `url`. What is in it already is kept; what it gets stays, also on failure.

    A broken connection is taken up again for as long as attempts bring something; see `Patience` for those that do not.

    Args:
        url: http or https.
        part: May hold the first bytes already, from wherever. The caller checks the content.
        size: Of the whole file, in bytes.
        patience: When to give up.
        is_last: No other source is left: be as slow as you like, but do not stall.

    Raises:
        SourceFailed: Unreachable, refused, of another size, stalled or slow.
        OSError: `part` cannot be written.
    """
    if _size(part) > size:
        part.unlink()
    pace, num_fruitless = Pace(patience.window), 0
    with _progress(f"{part.name.removesuffix('.part')} from {urlsplit(url).netloc}", size, _size(part)) as report:
        while (before := _size(part)) < size:
            reason, is_reachable = "the connection ended early", True
            try:
                for reached in _receive(url, part, size, patience):
                    report(reached)
                    if not is_last and pace.rate(reached) < patience.slowest:
                        raise SourceFailed(f"slower than {patience.slowest / 1000:.0f} kB/s")
            except (requests.RequestException, HTTPError) as error:
                reason, is_reachable = _in_words(error), _has_reached_server(error)
            num_fruitless = num_fruitless + 1 if _size(part) <= before else 0
            if num_fruitless and (not is_reachable or num_fruitless >= patience.fruitless):
                raise SourceFailed(reason)
            if num_fruitless:
                time.sleep(patience.pause)


class Pace:
    """The rate at which a growing number grew over the last `window` seconds."""

    def __init__(self, window: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._window = window
        self._clock = clock
        self._seen: deque[tuple[float, int]] = deque()

    def rate(self, reached: int) -> float:
        """Note the number and return its growth per second; infinite until a whole window has been seen."""
        now = self._clock()
        if not self._seen or now - self._seen[-1][0] >= self._window / 60:
            self._seen.append((now, reached))
        while len(self._seen) > 1 and now - self._seen[1][0] >= self._window:
            self._seen.popleft()
        then, start = self._seen[0]
        return (reached - start) / (now - then) if now - then >= self._window else float("inf")


def _receive(url: str, part: Path, size: int, patience: Patience) -> Iterator[int]:
    """Append to `part` what one request brings; yield the size reached after each piece."""
    have = _size(part)
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    timeout = (patience.connect, patience.read)
    with requests.get(url, headers=headers, stream=True, timeout=timeout) as response:
        have = _start(response, have, size)
        with part.open("r+b" if have else "wb") as file:
            file.seek(have)
            file.truncate()
            # Undecoded: some servers call the gzip archive itself a Content-Encoding.
            for chunk in response.raw.stream(CHUNK, decode_content=False):
                have += len(chunk)
                if have > size:
                    raise SourceFailed(f"sends more than the {size:,} bytes of the file")
                file.write(chunk)
                yield have


def _start(response: requests.Response, have: int, size: int) -> int:
    """Return the offset at which the body begins: `have`, or 0 where the server ignores Range."""
    if response.status_code == requests.codes.partial_content:
        content_range = response.headers.get("Content-Range", "")
        if content_range in (f"bytes {have}-{size - 1}/{size}", f"bytes {have}-{size - 1}/*"):
            return have
        raise SourceFailed(f"was asked for bytes {have}-{size - 1}/{size} and sends {content_range or 'others'}")
    if response.status_code != requests.codes.ok:
        raise SourceFailed(f"answers {response.status_code} {response.reason or ''}".rstrip())
    length = response.headers.get("Content-Length", "")
    if length.isdecimal() and int(length) != size:
        raise SourceFailed(f"has a file of {int(length):,} bytes, not {size:,}")
    return 0


@contextmanager
def _progress(name: str, size: int, start: int) -> Iterator[Callable[[int], None]]:
    """Give a function to report the bytes reached to: a bar on a terminal, else a line every ten seconds."""
    if sys.stderr.isatty():
        with tqdm(desc=name, total=size, initial=start, unit="B", unit_scale=True, file=sys.stderr) as bar:

            def move(reached: int) -> None:
                bar.update(reached - bar.n)

            yield move
        return
    began = last = time.monotonic()

    def report(reached: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_LINES:
            last = now
            rate = max((reached - start) / (now - began), 1)
            left = timedelta(seconds=round((size - reached) / rate))
            print(
                f"{name}: {reached / 1e6:.1f} of {size / 1e6:.1f} MB, {rate / 1e6:.2f} MB/s, {left} left",
                file=sys.stderr,
            )

    yield report


def _in_words(error: Exception) -> str:
    """Say in a few words what went wrong on the way to a server."""
    if isinstance(error, requests.ConnectTimeout):
        return "does not answer"
    if isinstance(error, requests.Timeout | ReadTimeoutError):
        return "stalled"
    if isinstance(error, requests.exceptions.SSLError):
        return "its certificate is not trusted"
    if isinstance(error, requests.exceptions.ProxyError):
        return "the proxy refuses"
    if isinstance(error, requests.exceptions.MissingSchema | requests.exceptions.InvalidURL):
        return "is not a URL"
    return "no connection" if isinstance(error, requests.ConnectionError) else "the connection broke"


def _has_reached_server(error: Exception) -> bool:
    """Whether a connection was made and then broke, which a moment later may go well."""
    return isinstance(error, ProtocolError) or isinstance(next(iter(error.args), None), ProtocolError)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
