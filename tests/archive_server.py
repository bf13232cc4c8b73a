"""A small archive, and a web server on this machine that gives it away well or badly."""

import hashlib
import io
import random
import tarfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cifar10.constants import Archive

FILES = {"batch_1": random.Random(1).randbytes(150_000), "batch_2": random.Random(2).randbytes(90_000)}


def pack(files: dict[str, bytes], folder: str = "batches", extra: tuple[tarfile.TarInfo, ...] = ()) -> bytes:
    """Return a tar.gz of `files` in `folder`; `extra` members come first."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for member in extra:
            tar.addfile(member, io.BytesIO(bytes(member.size)))
        for name, content in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def describe(content: bytes, *urls: str) -> Archive:
    """Return what would be published about an archive of FILES whose bytes are `content`."""
    return Archive(
        name="tiny.tar.gz",
        sha256=hashlib.sha256(content).hexdigest(),
        md5=hashlib.md5(content).hexdigest(),
        size=len(content),
        folder="batches",
        members=tuple((name, hashlib.md5(data).hexdigest()) for name, data in FILES.items()),
        urls=urls,
    )


CONTENT = pack(FILES)
TINY = describe(CONTENT)


@dataclass
class Web:
    """How the server behaves, and what it was asked."""

    content: bytes = CONTENT
    cuts: list[float] = field(default_factory=list)
    """After which part of the whole the connection breaks: the first for the first request, and so on."""
    knows_range: bool = True
    headers: dict[str, str] = field(default_factory=dict)
    status: int = 200
    seconds_per_kilobyte: float = 0
    requests: list[str | None] = field(default_factory=list)
    """The Range header of each request."""
    url: str = ""


@contextmanager
def serve(**behaviour: object) -> Iterator[Web]:
    """Run a server that gives `content` at `Web.url`."""
    web = replace(Web(), **behaviour)  # type: ignore[arg-type]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            give(self, web)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    web.url = f"http://127.0.0.1:{server.server_port}/tiny.tar.gz"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield web
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def give(request: BaseHTTPRequestHandler, web: Web) -> None:
    """Answer one request as `web` says."""
    wanted = request.headers.get("Range")
    web.requests.append(wanted)
    if web.status != 200:
        request.send_error(web.status)
        return
    start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and web.knows_range else 0
    cut = web.cuts.pop(0) if web.cuts else 1.0
    total = len(web.content)
    request.send_response(206 if start else 200)
    headers = {"Content-Length": str(total - start)}
    if start:
        headers["Content-Range"] = f"bytes {start}-{total - 1}/{total}"
    for name, value in (headers | web.headers).items():
        request.send_header(name, value)
    request.end_headers()
    body = web.content[start : int(total * cut)]
    try:
        for position in range(0, len(body), 1000):
            request.wfile.write(body[position : position + 1000])
            time.sleep(web.seconds_per_kilobyte)
    except OSError:  # the client has gone
        pass
