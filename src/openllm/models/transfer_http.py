"""Requests to hubs and other servers: who may see the token, how long they may take.

Redirects are followed here and not by the HTTP library, since the token and the user's own headers
go to the host they were given for and to no other.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx2

from openllm.config.download import DownloadOptions
from openllm.errors import ModelFetchError, ModelNotFoundError
from openllm.models.transfer_answer import (
    check_part,
    check_status,
    content_name,
    no_address,
    origin_of,
    redirected,
    shown_address,
)
from openllm.models.transfer_client import new_client
from openllm.models.transfer_retry import Retries, TransientError, UnreachableError
from openllm.models.transfer_stop import Halt

if TYPE_CHECKING:
    from typing_extensions import Self

MAX_REDIRECTS = 8
MAX_READ_SECONDS = 300.0
"""How long a listing may trickle in."""

_ERRNO = re.compile(r"^\[Errno -?[0-9]+\] ")
_LENGTH = re.compile(r"[0-9]{1,18}")
_TOTAL = re.compile(r"bytes 0-0/([0-9]{1,18})")

_answered: set[tuple[str, str, int]] = set()
"""Servers that this process has got an answer from, by their origins."""


class Session:
    """Connections for one download, used by several threads.

    `halt` ends what they do, `retries` does again what failed.
    """

    def __init__(self, options: DownloadOptions, home: str) -> None:
        """Open nothing yet.

        Args:
            options: Retries, time limits, headers, the token.
            home: Address of the server that the token and the headers are for.

        Raises:
            ConfigurationError: The environment names a proxy or certificates that cannot be used.
        """
        self.options = options
        self.halt = Halt()
        self.retries = Retries(options, self.halt.pause)
        self.endpoint = home
        self.host = _host_of(home)
        self._own = _own_headers(options, home)
        self._origin = origin_of(home)
        self._client = new_client(options)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._client.close()

    @contextmanager
    def open(
        self, url: str, headers: dict[str, str] | None = None, method: str = "GET"
    ) -> Iterator[httpx2.Response]:
        """Yield the answer to one request, behind its redirects, with the body not yet read.

        Raises:
            TransientError: The server cannot be reached, or says to come again.
            ModelNotFoundError: It has no such thing.
            ModelFetchError: It refuses, or the transfer was given up.
        """
        self.halt.pause(0)
        what = shown_address(url)
        own = self._own
        for _ in range(MAX_REDIRECTS):
            # Who has been sent elsewhere comes back, if at all, by a stranger's word: without them.
            own = own if origin_of(url) == self._origin else {}
            reply = self._send(method, url, {**own, **(headers or {})})
            try:
                if not reply.is_redirect:
                    check_status(reply, what, self.options)
                    yield reply
                    return
                url = redirected(reply, url, what)
            finally:
                reply.close()
        raise ModelFetchError(f"{what} is redirected more than {MAX_REDIRECTS} times")

    def _send(self, method: str, url: str, headers: dict[str, str]) -> httpx2.Response:
        traced = {"trace": self.halt.watch}
        try:
            request = self._client.build_request(method, url, headers=headers, extensions=traced)
            with _unlogged():
                reply = self._client.send(request, stream=True)
            _answered.add(origin_of(url))
            self.retries.reached(_host_of(url))
            return reply
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError) as error:
            raise self._unreachable(url, error) from error
        except (httpx2.TransportError, OSError) as error:
            if "in location header" in str(error):  # httpx2 2.14 reads what it does not follow.
                raise no_address(shown_address(url)) from None
            raise TransientError(f"{shown_address(url)}: {_reason(error)}") from error
        except (httpx2.InvalidURL, UnicodeError):
            raise ModelFetchError(f"{shown_address(url)} is no web address") from None

    def _unreachable(self, url: str, error: httpx2.TransportError) -> UnreachableError:
        hint = "check the address, the network and the proxy (HTTPS_PROXY)"
        if self._origin == origin_of(self.options.endpoint):
            hint += (
                ", name a mirror with --hub-endpoint or HF_ENDPOINT, or do without the network:"
                " with --offline what is stored is used"
            )
        known = origin_of(url) in _answered
        return UnreachableError(_host_of(url), _reason(error), hint, known=known)

    def read(self, url: str, limit: int, headers: dict[str, str] | None = None) -> bytes:
        """Return a whole body of at most `limit` bytes; tried again as the options say.

        Raises:
            ModelNotFoundError: There is no such thing.
            ModelFetchError: The body is longer, or the server fails or refuses.
        """
        what = shown_address(url)

        def attempt() -> bytes:
            deadline = monotonic() + MAX_READ_SECONDS
            with self.open(url, headers) as reply:
                check_part(reply, headers, what)
                body = bytearray()
                for piece in pieces(reply):
                    body += piece
                    if monotonic() > deadline:
                        raise ModelFetchError(
                            f"{what} trickled for {MAX_READ_SECONDS:.0f} s; try again later"
                        )
                    if len(body) > limit:
                        raise ModelFetchError(
                            f"{what} answers with more than the {limit} bytes it may have"
                        )
                return bytes(body)

        return self.retries.run(attempt)

    def read_range(self, url: str, start: int, length: int) -> bytes:
        """Return `length` bytes from `start`, fewer at the file's end; see `read` for errors."""
        return self.read(url, length, {"range": f"bytes={start}-{start + length - 1}"})


def measure(session: Session, url: str) -> tuple[int, str]:
    """Return the bytes of what is at `url`, -1 if the server does not say, and its `content_name`.

    A server that refuses HEAD, as with an address signed for GET, or that tells no length, is asked
    for the first byte. See `Session.read` for errors.
    """

    def attempt() -> tuple[int, str]:
        try:
            with session.open(url, method="HEAD") as reply:
                if (size := _length(reply)) > 0:
                    return size, content_name(reply)
        except (ModelFetchError, ModelNotFoundError):
            pass  # The answer to GET counts, and its words are told.
        try:
            with session.open(url, {"range": "bytes=0-0"}) as reply:
                return _length(reply), content_name(reply)
        except TransientError as error:
            if error.status != 416:
                raise
            return 0, ""

    return session.retries.run(attempt)


def _length(reply: httpx2.Response) -> int:
    if reply.status_code == 206:
        total = _TOTAL.fullmatch(reply.headers.get("content-range", ""))
        return int(total[1]) if total else -1
    text = reply.headers.get("content-length", "")
    return int(text) if _LENGTH.fullmatch(text) else -1


def pieces(reply: httpx2.Response) -> Iterator[bytes]:
    """Yield the body as it came.

    Raises:
        TransientError: It broke off, or nothing came for too long.
        ModelFetchError: It is compressed, although that was not asked for.
    """
    encoding = reply.headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise ModelFetchError(
            f"{shown_address(str(reply.url))} comes as {encoding!r},"
            " which was not asked for; refused"
        )
    try:
        yield from reply.iter_raw()
    except (httpx2.TransportError, OSError) as error:
        raise TransientError(f"{shown_address(str(reply.url))}: {_reason(error)}") from error


def _host_of(url: str) -> str:
    """Return the host with its port, as messages name it."""
    return urlsplit(url).netloc.rpartition("@")[2]


def _own_headers(options: DownloadOptions, home: str) -> dict[str, str]:
    pairs = (header.partition(":") for header in options.download_header)
    own = {name.strip().lower(): value.strip() for name, _, value in pairs}
    if origin_of(home) == origin_of(options.endpoint) and (token := options.token):
        own["authorization"] = f"Bearer {token}"
    return own


_sending = threading.local()


def _is_told(_: logging.LogRecord) -> bool:
    return not getattr(_sending, "quiet", False)


logging.getLogger("httpx2").addFilter(_is_told)


@contextmanager
def _unlogged() -> Iterator[None]:
    """Keep the HTTP library from logging this thread's addresses, whose queries may be signed."""
    _sending.quiet = True
    try:
        yield
    finally:
        _sending.quiet = False


def _reason(error: Exception) -> str:
    if isinstance(error, httpx2.TimeoutException):
        return "no answer in time"
    text = _ERRNO.sub("", str(error).strip()) or type(error).__name__
    unmade = isinstance(error, (httpx2.ConnectError, httpx2.ProxyError))
    return text if unmade else f"the connection failed ({text})"
