"""Ports for servers that cannot be told to take any, and ports on which nobody answers."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from contextlib import contextmanager

_NOT_HANDED_OUT = range(10_000, 16_000)
"""No system gives one of these to who asks for any port, or for none, as clients do."""


def free_port() -> int:
    """Return a port of the loopback that is free, and stays so until somebody asks for it."""
    for port in random.sample(_NOT_HANDED_OUT, 100):
        try:
            with socket.create_server(("127.0.0.1", port)):
                return port
        except OSError:
            continue
    raise RuntimeError("none of 100 ports is free")


@contextmanager
def held_port() -> Iterator[socket.socket]:
    """Hold a port of the loopback on which nobody listens: a connection to it is refused."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock
