"""Images at addresses, http:// and https://: one image, or a list of addresses.

A body is read up to the size limit of an image. Redirects lead to http and https only. What fails is a row with the
reason. Lines of a list are relative to its address, so that a list from elsewhere cannot name files of this machine.
"""

import re
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote, urljoin, urlsplit

from cifar10.errors import first_line
from cifar10.images.named_image import BeforeReading, NamedImage, unreadable
from cifar10.images.other_formats import kind_of_collection
from cifar10.images.reading import MAX_BYTES, ImageError, refuse_size
from cifar10.images.sources.public_addresses import public_session

if TYPE_CHECKING:
    import requests

_TIMEOUT = (10.0, 30.0)
"""Seconds to wait for a connection, and for the next bytes."""
_MOST_SECONDS = 100.0
"""For one image; below the patience of the decoding threads, so that the reason is this one."""
_MAX_REDIRECTS = 5
_CHUNK = 65_536  # bytes
_ADDRESS = re.compile("https?://", re.IGNORECASE)
_PAGE = re.compile(rb"\s*<(!doctype html|html|head|body|\?xml|svg)", re.IGNORECASE)

_local = threading.local()  # a session for each thread: connections are used again, and not shared


def is_address(text: str) -> bool:
    return _ADDRESS.match(text) is not None


def find(address: str) -> Iterator[NamedImage]:
    """Yield the image at `address`, or the images of the list there."""
    try:
        data = _fetch(address, lambda num_bytes: None)
    except ImageError as error:
        yield unreadable(address, str(error))
        return
    kind = kind_of_collection(data[:4096])
    if kind is None or _PAGE.match(data):
        yield NamedImage(address, lambda before_reading: data, len(data), folders=_folders(address))
    elif kind == "text":
        for line in data.decode("utf-8", "replace").split("\0" if b"\0" in data else "\n"):
            if name := line.strip("\ufeff\r"):
                yield _image_relative_to(address, name)
    else:
        yield unreadable(address, f"{kind.partition(';')[0]}; download it first, and name the file")


def image_at(address: str) -> NamedImage:
    """Return the image at `address`; it is fetched when it is read."""
    if not is_address(address):
        return unreadable(address, "not an address of http or https")
    try:
        urlsplit(address)
    except ValueError as error:
        return unreadable(address, f"not an address: {first_line(error)}")
    return NamedImage(address, partial(_fetch, address), is_remote=True, folders=_folders(address))


def _image_relative_to(address: str, name: str) -> NamedImage:
    try:
        return image_at(urljoin(address, name))
    except ValueError as error:
        return unreadable(name, f"not an address: {first_line(error)}")


def _folders(address: str) -> str:
    """Return the last folder and the name of the image."""
    return "/".join(unquote(urlsplit(address).path).split("/")[-2:]) if address.isprintable() else ""


def fetch(
    address: str, *, public_only: bool, most_bytes: int = MAX_BYTES, most_seconds: float = _MOST_SECONDS
) -> bytes:
    """Return the encoded image at `address`, which a visitor of a server has typed.

    Args:
        address: Of http or https.
        public_only: Connect to public addresses only, also after redirects; see `public_session`.
        most_bytes: Size of the largest image that is read.
        most_seconds: For all of it, once it is connected.

    Raises:
        ImageError: It cannot be fetched, or is too large.
    """
    if not is_address(address):
        raise ImageError("not an address of http or https")
    limits = _Limits(most_bytes, most_seconds)
    if not public_only:
        return _fetch(address, lambda num_bytes: None, limits)
    with _with_manners(public_session()) as session:
        return _fetch(address, lambda num_bytes: None, limits, session)


class _Limits(NamedTuple):
    num_bytes: int
    seconds: float


def _fetch(
    address: str,
    before_reading: BeforeReading,
    limits: _Limits | None = None,
    session: "requests.Session | None" = None,
) -> bytes:
    """Return the body.

    Raises:
        ImageError: It cannot be fetched, or is too large.
    """
    import requests

    limits = limits or _Limits(MAX_BYTES, _MOST_SECONDS)
    try:
        with (session or _session()).get(address, stream=True, timeout=_TIMEOUT) as response:
            if response.status_code != requests.codes.ok:
                raise ImageError(f"the server responds with {response.status_code} {response.reason or ''}".rstrip())
            length = response.headers.get("Content-Length", "")
            expected = int(length) if length.isdecimal() else None
            refuse_size(expected or 0, limits.num_bytes)
            before_reading(expected or 0)
            return _body(response, expected, limits)
    except ImageError:
        raise
    except Exception as error:  # of requests, of urllib3 and of the parsers of both
        raise ImageError(f"cannot be fetched: {_reason(error)}") from None


def _body(response: "requests.Response", expected: int | None, limits: _Limits) -> bytes:
    ends, parts, size = time.monotonic() + limits.seconds, list[bytes](), 0
    for part in response.iter_content(_CHUNK):
        parts.append(part)
        size += len(part)
        if size > limits.num_bytes:
            raise ImageError(f"too large: more than the limit of {limits.num_bytes // 2**20} MiB")
        if time.monotonic() > ends:
            raise ImageError(f"cannot be fetched: it takes more than {limits.seconds:.0f} s")
    if expected is not None and size < expected and "Content-Encoding" not in response.headers:
        raise ImageError(f"cannot be fetched: the connection ended early, after {size:,} of {expected:,} bytes")
    return b"".join(parts)


def _session() -> "requests.Session":
    if not hasattr(_local, "session"):
        import requests

        _local.session = _with_manners(requests.Session())
    session: requests.Session = _local.session
    return session


def _with_manners(session: "requests.Session") -> "requests.Session":
    session.max_redirects = _MAX_REDIRECTS
    session.headers["Accept-Encoding"] = "identity"
    session.headers["User-Agent"] = "cifar10"  # some servers refuse those without a name
    return session


def _reason(error: Exception) -> str:
    import requests
    from requests import exceptions

    reasons: tuple[tuple[type[Exception], str], ...] = (
        (exceptions.ConnectTimeout, "the server does not respond"),
        (requests.Timeout, "the server stalled"),
        (exceptions.SSLError, "its certificate is not trusted"),
        (exceptions.ProxyError, "the proxy refuses"),
        (exceptions.TooManyRedirects, f"more than {_MAX_REDIRECTS} redirects"),
        (exceptions.InvalidSchema, "it redirects to something else than http or https"),
        (exceptions.InvalidURL, "not an address"),
        (exceptions.ChunkedEncodingError, "the connection ended early"),
        (requests.ConnectionError, "the server stalled" if "Read timed out" in str(error) else "no connection"),
        (UnicodeError, "not an address"),
    )
    return next((reason for kind, reason in reasons if isinstance(error, kind)), "the connection broke")
