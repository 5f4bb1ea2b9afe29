"""Who may reach the server through a browser: the rules for Host and Origin.

A page on any site can make the reader's browser send requests to 127.0.0.1, and by rebinding its
own name in DNS even read the answers. So a server on a loopback address answers only to names that
mean this machine or were configured, and no server takes changes from a foreign page.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address

from openllm.errors import ConfigurationError

Headers = Sequence[tuple[bytes, bytes]]

# A name, an IPv4 or a bracketed IPv6 address, and a port: what RFC 3986 leaves without oddities.
_HOST = re.compile(rb"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(?::[0-9]{1,5})?")
_ORIGIN = re.compile(rb"https?://(" + _HOST.pattern + rb")")
_TOKENS = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~-]+(?: *, *[A-Za-z0-9!#$%&'*+.^_`|~-]+)*")
_DEFAULT_PORT = {b"http": b":80", b"https": b":443"}

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class HostPolicy:
    """Which `Host` values are answered."""

    def __init__(self, loopback: bool, names: Iterable[str]) -> None:
        """`loopback`: only this machine can connect; `names`: further host names without a port.

        Elsewhere any name is answered unless some are configured: a proxy may stand in front.

        Raises:
            ConfigurationError: A name is no host name.
        """
        self._names = frozenset(_checked_name(name) for name in names)
        self.restricted = loopback or bool(self._names)

    def refusal(self, headers: Headers, http_version: str) -> tuple[int, str] | None:
        """Return status and message for a Host that is not answered, None for one that is."""
        hosts = values(headers, b"host")
        if not hosts and not self.restricted and http_version == "1.0":
            return None
        match = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
        if match is None:
            return 400, "the request needs exactly one Host header: a name or address and a port"
        name = match[1].decode("ascii").lower()
        if not self.restricted or name in self._names or is_loopback(name):
            return None
        return 403, f"host {name!r} is not served here; --allowed-host {name} would admit it"


class OriginPolicy:
    """Which pages may change something, and which may read answers (CORS)."""

    def __init__(self, origins: Iterable[str]) -> None:
        """`origins` are pages of other hosts, as a browser writes them: `https://app.example`.

        Raises:
            ConfigurationError: One of them is no origin.
        """
        self._origins = frozenset(_checked_origin(origin) for origin in origins)

    def allowed(self, headers: Headers) -> bytes | None:
        """Return the request's Origin if it was configured, else None."""
        origins = values(headers, b"origin")
        return origins[0] if len(origins) == 1 and origins[0] in self._origins else None

    def refusal(self, headers: Headers, method: str) -> tuple[int, str] | None:
        """Return status and message for a request a foreign page may not make, else None."""
        origins = values(headers, b"origin")
        if len(origins) > 1:
            return 400, "the request has several Origin headers; send one"
        if origins and (origins[0] in self._origins or _same_host(origins[0], headers)):
            return None
        changes = method not in SAFE_METHODS or is_preflight(headers, method)
        if origins and changes:
            return 403, _foreign(origins[0])
        if changes and values(headers, b"sec-fetch-site") == [b"cross-site"]:
            return 403, "a page of another site may not send this request"
        return None


def is_preflight(headers: Headers, method: str) -> bool:
    """Whether a browser asks, with this request, if it may send another."""
    return method == "OPTIONS" and bool(values(headers, b"access-control-request-method"))


def preflight_headers(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Return what, beside `cors_headers`, permits the request that the browser announced."""
    answer = [
        (b"access-control-allow-methods", b"GET, HEAD, POST"),
        (b"access-control-max-age", b"600"),
    ]
    asked = values(headers, b"access-control-request-headers")
    if len(asked) == 1 and _TOKENS.fullmatch(asked[0]):
        answer.append((b"access-control-allow-headers", asked[0]))
    return answer


def cors_headers(origin: bytes) -> list[tuple[bytes, bytes]]:
    """Return what lets pages of a configured origin read the answer. Cookies are never used."""
    return [
        (b"access-control-allow-origin", origin),
        (b"access-control-expose-headers", b"x-request-id, retry-after"),
        (b"vary", b"origin"),
    ]


def is_loopback(host: str) -> bool:
    """Whether a host name or address, brackets or not, can only mean this machine."""
    if host.lower() == "localhost":
        return True
    try:
        address = ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    if isinstance(address, IPv4Address):
        return address.is_loopback
    return address == IPv6Address("::1")


def values(headers: Headers, name: bytes) -> list[bytes]:
    """Return every value of a header; names in `headers` are lower case, as ASGI promises."""
    return [value for key, value in headers if key == name]


def _same_host(origin: bytes, headers: Headers) -> bool:
    """Whether the page came from this server: same host and port, whatever a proxy did to TLS."""
    scheme, _, netloc = origin.lower().partition(b"://")
    default = _DEFAULT_PORT.get(scheme)
    hosts = values(headers, b"host")
    if default is None or len(hosts) != 1:
        return False
    host = hosts[0].lower()
    return netloc.removesuffix(default) == host.removesuffix(default)


def _foreign(origin: bytes) -> str:
    if not _ORIGIN.fullmatch(origin):
        return "pages of this origin may not use this server"
    name = origin.decode("ascii")
    return f"pages of {name} may not use this server; --allowed-origin {name} would admit them"


def _checked_name(name: str) -> str:
    host = name.encode("ascii", "replace")
    match = _HOST.fullmatch(host)
    if match is None or match[1] != host:
        raise ConfigurationError(
            f"{name!r} is no host name; give a name or address without scheme, port or path",
            param="allowed_host",
        )
    return name.lower()


def _checked_origin(origin: str) -> bytes:
    value = origin.encode("ascii", "replace").lower()
    if not _ORIGIN.fullmatch(value):
        raise ConfigurationError(
            f"{origin!r} is no origin; write it as a browser does, like https://app.example or "
            "http://localhost:3000; there is no wildcard",
            param="allowed_origin",
        )
    return value
