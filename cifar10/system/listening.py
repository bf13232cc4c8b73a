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
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
        try:
            probe.bind((host, port))
        except (socket.gaierror, TypeError, UnicodeError) as error:  # the last two: it cannot be a name
            reason = error.strerror if isinstance(error, OSError) else "this is no name of a machine"
            raise UserError(
                f"{purpose} cannot listen at {host} ({reason}); choose --host=127.0.0.1 or 0.0.0.0"
            ) from None
        except OSError as error:
            reason = error.strerror or first_line(error)
            other = f"--port={port + 1}" if port < 65535 else "--port=8600"
            told = f"{purpose} cannot listen at {host}:{port} ({reason})"
            raise UserError(f"{told}; choose another --port or --host, such as {other}") from None
        return int(probe.getsockname()[1])


def reserve(host: str, port: int, purpose: str) -> socket.socket:
    """Return a socket that keeps the port from other programs until it is closed; the caller's server may listen there.

    The server must share its port with sockets of the same user (SO_REUSEPORT). Arguments and errors of `require_free`.
    """
    require_free(host, port, purpose)
    held = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    held.bind((host, port))
    return held
