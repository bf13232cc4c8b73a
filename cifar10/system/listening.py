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
        except OSError as error:
            reason = error.strerror or first_line(error)
            other = f"--port={port + 1}" if port < 65535 else "--port=8600"
            told = f"{purpose} cannot listen at {host}:{port} ({reason})"
            raise UserError(f"{told}; choose another --port or --host, such as {other}") from None
        return int(probe.getsockname()[1])
