"""Download one file over HTTP and verify it: resumable, with progress, and with timeouts for slow servers."""

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

from cifar10.files import file_sha256

CHUNK = 16_384  # bytes; small, so that a slow server is detected soon
SECONDS_BETWEEN_LINES = 10
_REASONS = (
    (requests.ConnectTimeout, "does not respond"),
    ((requests.Timeout, ReadTimeoutError), "stalled"),
    (requests.exceptions.SSLError, "its certificate is not trusted"),
    (requests.exceptions.ProxyError, "the proxy refuses"),
    ((requests.exceptions.MissingSchema, requests.exceptions.InvalidURL), "is not a URL"),
    (requests.ConnectionError, "no connection"),
    (Exception, "the connection broke"),
)
"""Exceptions and their message; the first that matches is used."""


class SourceFailed(Exception):
    """This source does not provide the file; the message is the reason. Another source may provide it."""


@dataclass(frozen=True)
class Patience:
    """When to give up a server."""

    connect: float = 10
    """Seconds to wait for a connection."""
    read: float = 30
    """Seconds to wait for the next bytes."""
    slowest: float = 100_000
    """Bytes per second below which the next source is tried, if there is one."""
    window: float = 30
    """Seconds over which the rate is measured."""
    fruitless: int = 3
    """Attempts in a row that reach the server and receive no byte, before it is given up."""
    pause: float = 1
    """Seconds to wait after a fruitless attempt."""


def remote_size(url: str, patience: Patience) -> int:
    """Return the size in bytes of the file at `url`.

    Raises:
        SourceFailed: Unreachable, refused, or the server does not say.
    """
    timeout = (patience.connect, patience.read)
    try:
        with requests.get(url, headers={"Accept-Encoding": "identity"}, stream=True, timeout=timeout) as response:
            if response.status_code != requests.codes.ok:
                raise SourceFailed(f"responds with {response.status_code} {response.reason or ''}".rstrip())
            length = response.headers.get("Content-Length", "")
    except (requests.RequestException, HTTPError) as error:
        raise SourceFailed(_reason(error)) from error
    if not length.isdecimal():
        raise SourceFailed("does not say how large the file is")
    return int(length)


def download_verified(url: str, part: Path, size: int, sha256: str, patience: Patience, is_last: bool) -> None:
    """The same as `download`, and verify the result; if it began with bytes from elsewhere, try once more without them.

    Args:
        sha256: The SHA-256 of the file, or its first digits; empty: not verified.

    Raises:
        SourceFailed: As `download`; or the file is another one, and `part` was deleted.
        OSError: `part` cannot be written.
    """
    for is_mixed in (part.exists(), False):
        download(url, part, size, patience, is_last)
        if file_sha256(part).startswith(sha256):
            return
        part.unlink()
        if not is_mixed:
            raise SourceFailed("sends other data: the SHA-256 is wrong, so the download was deleted")
        name = part.name.removesuffix(".part")
        print(
            f"{name}: the parts do not belong to the same file (SHA-256); downloading all of it again", file=sys.stderr
        )


def download(url: str, part: Path, size: int, patience: Patience, is_last: bool) -> None:
    """Fill `part` up to `size` bytes from `url`. Bytes already in it are kept; received bytes stay, also on failure.

    A broken connection is resumed as long as attempts receive bytes; `Patience` limits the others.

    Args:
        url: http or https.
        part: May already hold the first bytes, from any source. The caller checks the content.
        size: Size of the whole file in bytes.
        patience: When to give up.
        is_last: There is no other source, so the server may be slow, but must not stall.

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
                reason = _reason(error)
                # True if a connection was made and then broke: the next attempt may succeed
                is_reachable = any(isinstance(cause, ProtocolError) for cause in (error, *error.args[:1]))
            num_fruitless = num_fruitless + 1 if _size(part) <= before else 0
            if num_fruitless and (not is_reachable or num_fruitless >= patience.fruitless):
                raise SourceFailed(reason)
            if num_fruitless:
                time.sleep(patience.pause)


class Pace:
    """The rate at which a number has grown over the last `window` seconds."""

    def __init__(self, window: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._window = window
        self._clock = clock
        self._seen: deque[tuple[float, int]] = deque()

    def rate(self, reached: int) -> float:
        """Record the number and return its growth per second; infinite until a whole window has passed."""
        now = self._clock()
        if not self._seen or now - self._seen[-1][0] >= self._window / 60:
            self._seen.append((now, reached))
        while len(self._seen) > 1 and now - self._seen[1][0] >= self._window:
            self._seen.popleft()
        then, start = self._seen[0]
        return (reached - start) / (now - then) if now - then >= self._window else float("inf")


def _receive(url: str, part: Path, size: int, patience: Patience) -> Iterator[int]:
    """Append the bytes of one request to `part`; yield the size reached after each chunk."""
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
        raise SourceFailed(f"sends {content_range or 'other bytes'} instead of bytes {have}-{size - 1}/{size}")
    if response.status_code != requests.codes.ok:
        raise SourceFailed(f"responds with {response.status_code} {response.reason or ''}".rstrip())
    length = response.headers.get("Content-Length", "")
    if length.isdecimal() and int(length) != size:
        raise SourceFailed(f"has a file of {int(length):,} bytes, not {size:,}")
    return 0


@contextmanager
def _progress(name: str, size: int, start: int) -> Iterator[Callable[[int], None]]:
    """Provide a function that reports the bytes reached: a bar on a terminal, else a line every ten seconds."""
    with tqdm(desc=name, total=size, initial=start, unit="B", unit_scale=True, file=sys.stderr, disable=None) as bar:
        began = last = time.monotonic()

        def report(reached: int) -> None:
            nonlocal last
            now = time.monotonic()
            if not bar.disable:
                bar.update(reached - bar.n)
            elif now - last >= SECONDS_BETWEEN_LINES:
                last = now
                rate = max((reached - start) / (now - began), 1)
                left = timedelta(seconds=round((size - reached) / rate))
                numbers = f"{reached / 1e6:.1f} of {size / 1e6:.1f} MB, {rate / 1e6:.2f} MB/s, {left} left"
                print(f"{name}: {numbers}", file=sys.stderr)

        yield report


def _reason(error: Exception) -> str:
    return next(reason for kinds, reason in _REASONS if isinstance(error, kinds))


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
