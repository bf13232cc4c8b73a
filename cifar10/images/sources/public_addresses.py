"""Connections to public addresses only, so that a visitor of a server cannot read what is in its private network.

The name of a host is resolved once, and the connection goes to the address that was checked: a name that changes its
address in between (DNS rebinding) gains nothing. Redirects are checked in the same way, and proxies are not used.
"""

import ipaddress
import socket
from typing import TYPE_CHECKING, Any

from cifar10.images.reading import ImageError

if TYPE_CHECKING:
    import requests

_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: the last 32 bits are an IPv4 address


def is_public(address: str) -> bool:
    """Return whether an IP address is one of the internet: not private, of this machine, a link, or a group."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    return parsed.is_global and not parsed.is_multicast and all(map(is_public, _embedded(parsed)))


def public_session() -> "requests.Session":
    """Return a session of requests that connects to public addresses only; others raise ImageError."""
    import requests
    from requests.adapters import HTTPAdapter

    http, https = _pools()

    class PublicAdapter(HTTPAdapter):
        def init_poolmanager(self, *arguments: Any, **settings: Any) -> None:
            super().init_poolmanager(*arguments, **settings)
            self.poolmanager.pool_classes_by_scheme = {"http": http, "https": https}

    session = requests.Session()
    session.trust_env = False  # a proxy would connect in our place, and .netrc has passwords
    for scheme in ("http://", "https://"):
        session.mount(scheme, PublicAdapter())
    return session


def _pools() -> tuple[type, type]:
    """Return urllib3's classes of connection pools for http and https, with connections that check addresses."""
    from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
    from urllib3.connection import HTTPConnection, HTTPSConnection
    from urllib3.util.connection import create_connection

    class Checked:
        def _new_conn(self: Any) -> socket.socket:
            place = (_checked(self.host, self.port), self.port)
            return create_connection(place, self.timeout, self.source_address, self.socket_options)

    class PublicHTTP(Checked, HTTPConnection):
        pass

    class PublicHTTPS(Checked, HTTPSConnection):
        pass

    class HTTPPool(HTTPConnectionPool):
        ConnectionCls = PublicHTTP

    class HTTPSPool(HTTPSConnectionPool):
        ConnectionCls = PublicHTTPS

    return HTTPPool, HTTPSPool


def _checked(host: str, port: int) -> str:
    """Return the IP address to connect to.

    Raises:
        ImageError: The host has none, or one that is not public.
    """
    try:
        found = [str(entry[4][0]) for entry in socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)]
    except (OSError, UnicodeError):
        raise ImageError("cannot be fetched: no connection") from None
    if not all(map(is_public, found)):
        raise ImageError("it is in a private network, which is not read for visitors")
    return found[0]


def _embedded(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> list[str]:
    """Return the IPv4 addresses that an IPv6 address leads to."""
    if isinstance(address, ipaddress.IPv4Address):
        return []
    found = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if address in _NAT64:
        found.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return [str(each) for each in found if each is not None]
