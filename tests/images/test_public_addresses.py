"""Addresses that a visitor of a server may have read for him."""

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from cifar10.images.reading import ImageError
from cifar10.images.sources.addresses import fetch
from cifar10.images.sources.public_addresses import is_public


@pytest.mark.parametrize(
    ("address", "public"),
    [
        *(("93.184.215.14", True), ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", True)),
        *(("127.0.0.1", False), ("10.1.2.3", False), ("172.16.0.1", False), ("192.168.1.1", False)),
        *(("169.254.169.254", False), ("100.64.0.1", False), ("0.0.0.0", False), ("255.255.255.255", False)),
        *(("224.0.0.1", False), ("::1", False), ("::", False), ("fe80::1%eth0", False), ("fd00::1", False)),
        *(("ff02::1", False), ("::ffff:127.0.0.1", False), ("::ffff:93.184.215.14", True)),
        *(("2002:7f00:1::", False), ("64:ff9b::7f00:1", False), ("64:ff9b::5db8:d70e", True)),
    ],
)
def test_only_addresses_of_the_internet_are_public(address: str, public: bool) -> None:
    assert is_public(address) is public


class Handler(BaseHTTPRequestHandler):
    """Serves a picture, and redirects."""

    served: list[str] = []  # noqa: RUF012 - reset by each test

    def do_GET(self) -> None:
        self.served.append(self.path)
        if self.path == "/away":
            self.send_response(302)
            self.send_header("Location", "http://secret.test/picture")
            self.end_headers()
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"x" * 5000)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    Handler.served.clear()
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server.server_port
        server.shutdown()


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch, port: int) -> dict[str, str]:
    """Let host names have the addresses in the dict that is returned; public ones are connected to the server here."""
    known: dict[str, str] = {}

    def look_up(host: str, *_: Any, **__: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (known.get(host, host), port))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    create = socket.create_connection

    def connect(place: tuple[str, int], *_: Any, **__: Any) -> socket.socket:
        assert is_public(place[0])
        known["connected"] = place[0]
        monkeypatch.setattr(socket, "getaddrinfo", socket_lookup)
        try:
            return create(("127.0.0.1", port))
        finally:
            monkeypatch.setattr(socket, "getaddrinfo", look_up)

    monkeypatch.setattr("urllib3.util.connection.create_connection", connect)
    return known


socket_lookup = socket.getaddrinfo


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "0.0.0.0", "2130706433", "127.1"])
def test_this_machine_is_not_read_for_visitors_in_any_spelling(host: str, port: int) -> None:
    with pytest.raises(ImageError, match=r"in a private network|no connection"):
        fetch(f"http://{host}:{port}/picture", public_only=True)
    assert not Handler.served


def test_a_visitor_at_this_machine_may_read_it(port: int) -> None:
    assert fetch(f"http://127.0.0.1:{port}/picture", public_only=False) == b"x" * 5000


def test_a_public_name_is_read_from_the_address_that_was_checked(names: dict[str, str]) -> None:
    names["pictures.test"] = "93.184.215.14"
    assert fetch("http://pictures.test/picture", public_only=True) == b"x" * 5000
    assert names["connected"] == "93.184.215.14"


def test_a_name_of_a_private_address_is_refused(names: dict[str, str]) -> None:
    names["inside.test"] = "10.0.0.7"
    with pytest.raises(ImageError, match="in a private network"):
        fetch("http://inside.test/picture", public_only=True)
    assert not Handler.served


def test_a_redirect_to_a_private_address_is_refused(names: dict[str, str]) -> None:
    names |= {"pictures.test": "93.184.215.14", "secret.test": "192.168.0.1"}
    with pytest.raises(ImageError, match="in a private network"):
        fetch("http://pictures.test/away", public_only=True)
    assert Handler.served == ["/away"]


def test_a_proxy_of_the_environment_is_not_used(names: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    names["pictures.test"] = "93.184.215.14"
    assert fetch("http://pictures.test/picture", public_only=True) == b"x" * 5000


def test_more_than_the_limit_is_not_read(port: int) -> None:
    with pytest.raises(ImageError, match="too large"):
        fetch(f"http://127.0.0.1:{port}/picture", public_only=False, most_bytes=1000)


@pytest.mark.parametrize("address", ["file:///etc/passwd", "ftp://host/a.png", "gopher://x", "picture.png"])
def test_other_schemes_are_no_addresses(address: str) -> None:
    with pytest.raises(ImageError, match="not an address"):
        fetch(address, public_only=True)
