"""Taking the address before anything is loaded, so that a taken one costs no time."""

from __future__ import annotations

import errno
import socket

from openllm.errors import AddressInUseError, ConfigurationError


def listen(host: str, port: int, backlog: int) -> socket.socket:
    """Return a listening socket.

    Raises:
        AddressInUseError: Another process listens there; the message names it if it can be seen.
        ConfigurationError: The address cannot be bound for another reason.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # asyncio sends small pieces at once only on sockets that name their protocol.
        sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except (socket.gaierror, UnicodeError):
        raise _foreign(host) from None
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(backlog)
    except OSError as error:
        sock.close()
        raise _explained(error, host, port) from None
    return sock


def _foreign(host: str) -> ConfigurationError:
    return ConfigurationError(
        f"--host {host!r} is not an address of this machine; use 127.0.0.1 for this machine alone "
        "or 0.0.0.0 for all its addresses",
        param="host",
    )


def _explained(error: OSError, host: str, port: int) -> ConfigurationError:
    if error.errno == errno.EADDRINUSE:
        return AddressInUseError(
            f"port {port} on {host} is in use{_holder(port)}; "
            "stop that process or choose another port with --port",
            param="port",
        )
    if error.errno == errno.EACCES:
        return ConfigurationError(
            f"port {port} needs privileges this process lacks; use a port above 1023", param="port"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return _foreign(host)
    return ConfigurationError(
        f"cannot listen on {host} port {port}: {error.strerror}", param="host"
    )


def _holder(port: int) -> str:
    import psutil

    try:
        for each in psutil.net_connections(kind="tcp"):
            if each.status == psutil.CONN_LISTEN and each.laddr.port == port and each.pid:
                return f" by process {each.pid} ({psutil.Process(each.pid).name()})"
    except psutil.Error:  # Another user's processes cannot be seen.
        pass
    return ""
