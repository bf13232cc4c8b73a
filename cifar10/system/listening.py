"""Addresses at which a server of this program listens."""

import socket

from cifar10.errors import UserError, first_line

LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Names of this machine that no other one reaches."""


def url_of(host: str, port: int) -> str:
    """Return the address to open."""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def require_free(host: str, port: int, purpose: str) -> int:
    """Return the port, or one that is free for 0.

    Args:
        host: Name or number of an interface of this machine.
        port: From 0.
        purpose: What is to listen, at the beginning of the message.

    Raises:
        UserError: The port is taken, or this machine has no such address.
    """
    with _bound(host, port, socket.SO_REUSEADDR, purpose) as probe:  # as servers do
        return int(probe.getsockname()[1])


def reserve(host: str, port: int, purpose: str) -> socket.socket:
    """Return a socket that keeps the port from other programs until it is closed; the caller's server may listen there.

    The server must share its port with sockets of the same user (SO_REUSEPORT). Arguments and errors of `require_free`.
    """
    require_free(host, port, purpose)
    return _bound(host, port, socket.SO_REUSEPORT, purpose)


def _bound(host: str, port: int, option: int, purpose: str) -> socket.socket:
    """Return a socket with an option that is bound and does not listen; errors of `require_free`."""
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, option, 1)
    try:
        bound.bind((host, port))
    except (OSError, TypeError, UnicodeError) as error:
        bound.close()
        raise UserError(f"{purpose} cannot listen at {_problem(error, host, port)}") from None
    return bound


def _problem(error: Exception, host: str, port: int) -> str:
    """Return the address, what is wrong with it, and what to do."""
    if not isinstance(error, OSError):  # it cannot be encoded
        return f"{host} (this is no name of a machine); choose --host=127.0.0.1 or 0.0.0.0"
    reason = error.strerror or first_line(error)
    if isinstance(error, socket.gaierror):
        return f"{host} ({reason}); choose --host=127.0.0.1 or 0.0.0.0"
    other = f"--port={port + 1}" if port < 65535 else "--port=8600"
    return f"{host}:{port} ({reason}); choose another --port or --host, such as {other}"
