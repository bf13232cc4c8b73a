"""Requests that no client should send, as bytes: damaged forms, request lines, headers, chunks and pipelines."""

import random
from collections.abc import Iterator, Sequence
from typing import TypeVar

from tests.malformed import encode, malformed_images
from tests.tiny_onnx import coloured

Value = TypeVar("Value")

_PART_LINES = [
    b'Content-Disposition: form-data; name="images"; filename="a.png"',
    b"Content-Disposition: form-data; filename*=utf-8''%ff%fe",
    b'Content-Disposition: form-data; name="\xff\xfe"; filename="\x00"',
    b"Content-Disposition: attachment",
    b"Content-Type: image/png",
    b"Content-Transfer-Encoding: base64",
    b"X" * 3000 + b": y",
    b"no colon",
    b"",
]
_METHODS = [b"POST", b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"CONNECT", b"PRI", b"post", b"G\0T", b"P" * 9000, b""]
_TARGETS = [
    *(b"/predict", b"/predict?top_k=2", b"/v2/models/colours/infer", b"/model", b"/metrics", b"/openapi.json", b"/"),
    *(b"*", b"", b"predict", b"//predict", b"/../../etc/passwd", b"/%00%ff", b"/\xff\xfe", b"http://a/predict"),
    *(b"http://[", b"/predict?top_k=" + b"9" * 5000, b"/v2/models/%2e%2e/infer", b"/" + b"a" * 70_000, b"/a b c"),
]
_VERSIONS = [b"HTTP/1.1", b"HTTP/1.0", b"HTTP/0.9", b"HTTP/2.0", b"HTTP/9.9", b"http/1.1", b"", b"HTTP/1.1 x"]
_LENGTHS = [b"-1", b"1e3", b"+5", b"5, 5", b"5,6", b"0x5", b"9" * 20, b"", b"\xd9\xa5", b"5 5", b"18446744073709551616"]
_ENCODINGS = [
    *(b"chunked", b"Chunked", b"gzip, chunked", b"chunked, chunked", b"chunked, identity"),
    *(b"xchunked", b"\x0bchunked", b"chunked;q=1", b""),
]
_HEADERS = [
    *(b"Host: a", b"Host: b", b"Host:", b"Host: a\0b", b"Connection: close", b"Connection: keep-alive, close"),
    *(b"Connection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk", b"Upgrade: websocket\r\nConnection: upgrade"),
    *(b"Expect: 100-continue", b"Expect: nothing", b"Content-Encoding: gzip", b"Content-Type: \xff", b"Cookie: \x01"),
    *(
        b"no colon",
        b" : a",
        b": a",
        b"A : b",
        b" folded",
        b"\tfolded",
        b"X: \r\n y",
        b"X: a\0b",
        b"X: a\rb",
        b"\xff: b",
    ),
    *(
        b"Range: bytes=0-",
        b"Accept-Encoding: gzip;q=x",
        b"X-Forwarded-For: " + b"1," * 5000,
        b"Trailer: Content-Length",
    ),
    *(b"Inference-Header-Content-Length: 3", b"Inference-Header-Content-Length: -3", b"Authorization: Bearer \xff"),
]
_KINDS = [
    b"Content-Type: application/json",
    b"Content-Type: image/png",
    b"Content-Type: multipart/form-data; boundary=b",
]
_MANY_HEADERS = [b"X: y"] * 3000
_SIZES = [b"zz", b"-1", b"F" * 17, b"", b" 5", b"5 ", b"5;name", b'5;name="', b"0x5", b"00000000005", b"5\n"]
_BODIES = [b"", b"{}", b'{"images": ["AAAA"]}', b'{"images": [[[[', b"[" * 2000, b"\0" * 100, b"--b\r\n\r\n--b--\r\n"]


def malformed_forms(number: int) -> Iterator[bytes]:
    """Yield requests whose forms are damaged in various ways; the connection is to be closed after each."""
    rng = random.Random(0)
    images = [file.data for file in malformed_images() if len(file.data) < 2**16] + [encode(coloured(0), "PNG")]
    for _ in range(number):
        boundary = rng.choice([b"b", b"x" * 70, b"x" * 300, b'"', b"-", b"a b"])
        parts = b""
        for _ in range(rng.randrange(6)):
            headers = b"\r\n".join(rng.choices(_PART_LINES, k=rng.randrange(4)))
            parts += b"--" + boundary + b"\r\n" + headers + rng.choice([b"\r\n\r\n", b"\n\n", b"\r\n"])
            parts += rng.choice(images) + rng.choice([b"\r\n", b""])
        body = bytearray(parts + rng.choice([b"--" + boundary + b"--\r\n", b"--" + boundary, b""]))
        for _ in range(rng.randrange(4)):
            if body:
                body[rng.randrange(len(body))] = rng.randrange(256)
        kind = rng.choice(
            [b"multipart/form-data; boundary=" + boundary, b"multipart/form-data", b"multipart/form-data;"]
        )
        length = max(0, len(body) + rng.choice([0, 0, 0, -10]))
        yield (
            b"POST /predict HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: " + kind + b"\r\nContent-Length: "
            b"%d\r\n\r\n" % length + bytes(body[:length])
        )


def malformed_requests(number: int) -> Iterator[bytes]:
    """Yield what is sent on a connection: one to four requests, each with some faults, cut off or not."""
    for seed in range(number):
        rng = random.Random(seed)
        data = bytearray(b"".join(_request(rng) for _ in range(rng.choice([1, 1, 1, 2, 4]))))
        for _ in range(rng.choice([0, 0, 0, 1, 5])):
            data[rng.randrange(len(data))] = rng.randrange(256)
        end = rng.choice([len(data), len(data), len(data), rng.randrange(len(data) + 1)])
        yield bytes(data[:end])


def _request(rng: random.Random) -> bytes:
    """Return a request in which each part is right or, less often, wrong."""
    method, target = _usual(rng, _METHODS), rng.choice([_usual(rng, _TARGETS), rng.choice(_TARGETS)])
    blank = _usual(rng, [b" ", b"\t", b"  ", b"\0", b""])
    line_end = _usual(rng, [b"\r\n", b"\n", b"\r", b"\r\n\r\n"])
    headers = [_usual(rng, _HEADERS), rng.choice(_KINDS), *rng.choices(_HEADERS, k=rng.choice([0, 0, 0, 1, 1, 3]))]
    body = _body(rng, headers)
    headers += _usual(rng, [[], _MANY_HEADERS, [b"X: " + b"y" * 100_000]])
    first = blank.join([method, target, _usual(rng, _VERSIONS)])
    return line_end.join([first, *headers, b"", b""]) + body


def _body(rng: random.Random, headers: list[bytes]) -> bytes:
    """Return a body, and add headers that describe it rightly or wrongly."""
    body = rng.choice(_BODIES)
    if rng.random() < 0.5:
        length = b"%d" % len(body)
        headers.append(b"Content-Length: " + _usual(rng, [length, b"%d" % (len(body) + 7), *_LENGTHS]))
        headers += [b"Content-Length: " + length] * _usual(rng, [0, 1])
        return body
    headers.append(b"Transfer-Encoding: " + _usual(rng, _ENCODINGS))
    size = _usual(rng, [b"%x" % len(body), *_SIZES])
    chunk_end = _usual(rng, [b"\r\n", b"\n", b"", b"x"])
    last = _usual(rng, [b"0\r\n\r\n", b"0\r\nX: y\r\n\r\n", b"0\r\nContent-Length: 5\r\n\r\n", b"0", b""])
    return size + chunk_end + body + chunk_end + last


def _usual(rng: random.Random, values: Sequence[Value]) -> Value:
    """Return the first value in 19 of 20 cases, else any."""
    return values[0] if rng.random() < 0.95 else rng.choice(values)
