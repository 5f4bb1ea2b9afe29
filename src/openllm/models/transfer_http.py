"""Requests to hubs and other servers: who may see the token, and what a status means.

Redirects are followed here and not by the HTTP library, since the token and the user's own headers
go to the host they were given for and to no other.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from time import monotonic, time
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import urljoin, urlsplit

import httpx2

from openllm._version import __version__
from openllm.config.download import DownloadOptions, is_web_address
from openllm.errors import ModelFetchError, ModelNotFoundError
from openllm.models.transfer_retry import TransientError, retried
from openllm.models.transfer_stop import Halt

if TYPE_CHECKING:
    from typing_extensions import Self

MAX_REDIRECTS = 8
MAX_READ_SECONDS = 300.0
"""How long a listing may trickle in."""
CONNECT_SECONDS = 10.0

_LENGTH = re.compile(r"[0-9]{1,18}")
_TOTAL = re.compile(r"bytes 0-0/([0-9]{1,18})")


class Session:
    """Connections for one download, used by several threads; `halt` ends what they do."""

    def __init__(self, options: DownloadOptions, home: str) -> None:
        """Open nothing yet.

        Args:
            options: Retries, time limits, headers, the token.
            home: Address of the server that the token and the headers are for.
        """
        self.options = options
        self.halt = Halt()
        self.endpoint = home
        self.host = urlsplit(home).netloc.rpartition("@")[2]
        self._own = _own_headers(options, home)
        self._origin = _origin(home)
        limit = options.download_timeout
        connect = min(limit, CONNECT_SECONDS)
        self._client = httpx2.Client(
            timeout=httpx2.Timeout(limit, connect=connect, pool=None),
            follow_redirects=False,
            headers={
                "user-agent": f"openllm/{__version__}",
                "accept-encoding": "identity",
                "accept": "*/*",
            },
        )

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
        what = _shown(url)
        own = self._own
        for _ in range(MAX_REDIRECTS):
            # Who has been sent elsewhere comes back, if at all, by a stranger's word: without them.
            own = own if _origin(url) == self._origin else {}
            reply = self._send(method, url, {**own, **(headers or {})})
            try:
                if not reply.is_redirect:
                    _check(reply, what, self.options)
                    yield reply
                    return
                url = _redirected(reply, url, what)
            finally:
                reply.close()
        raise ModelFetchError(f"{what} is redirected more than {MAX_REDIRECTS} times")

    def _send(self, method: str, url: str, headers: dict[str, str]) -> httpx2.Response:
        traced = {"trace": self.halt.watch}
        try:
            request = self._client.build_request(method, url, headers=headers, extensions=traced)
            with _unlogged():
                return self._client.send(request, stream=True)
        except (httpx2.TransportError, OSError) as error:
            raise TransientError(f"{_shown(url)}: {_reason(error)}") from error
        except (httpx2.InvalidURL, UnicodeError):
            raise ModelFetchError(f"{_shown(url)} is no web address") from None

    def read(self, url: str, limit: int, headers: dict[str, str] | None = None) -> bytes:
        """Return a whole body of at most `limit` bytes; tried again as the options say.

        Raises:
            ModelNotFoundError: There is no such thing.
            ModelFetchError: The body is longer, or the server fails or refuses.
        """

        def attempt() -> bytes:
            deadline = monotonic() + MAX_READ_SECONDS
            with self.open(url, headers) as reply:
                _check_part(reply, headers, what=_shown(url))
                body = bytearray()
                for piece in pieces(reply):
                    body += piece
                    if monotonic() > deadline:
                        raise ModelFetchError(
                            f"{_shown(url)} trickled for {MAX_READ_SECONDS:.0f} s; try again later"
                        )
                    if len(body) > limit:
                        raise ModelFetchError(
                            f"{_shown(url)} answers with more than the {limit} bytes it may have"
                        )
                return bytes(body)

        return retried(attempt, self.options, pause=self.halt.pause)

    def read_range(self, url: str, start: int, length: int) -> bytes:
        """Return `length` bytes from `start`, fewer at the file's end; see `read` for errors."""
        return self.read(url, length, {"range": f"bytes={start}-{start + length - 1}"})


def measure(session: Session, url: str) -> tuple[int, str]:
    """Return the bytes of what is at `url`, -1 if the server does not say, and its ETag.

    A server that refuses HEAD, as with an address signed for GET, or that tells no length, is asked
    for the first byte. See `Session.read` for errors.
    """

    def attempt() -> tuple[int, str]:
        try:
            with session.open(url, method="HEAD") as reply:
                if (size := _length(reply)) > 0:
                    return size, reply.headers.get("etag", "")
        except (ModelFetchError, ModelNotFoundError):
            pass  # The answer to GET counts, and its words are told.
        try:
            with session.open(url, {"range": "bytes=0-0"}) as reply:
                return _length(reply), reply.headers.get("etag", "")
        except TransientError as error:
            if error.status != 416:
                raise
            return 0, ""

    return retried(attempt, session.options, pause=session.halt.pause)


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
            f"{_shown(str(reply.url))} comes as {encoding!r}, which was not asked for; refused"
        )
    try:
        yield from reply.iter_raw()
    except (httpx2.TransportError, OSError) as error:
        raise TransientError(f"{_shown(str(reply.url))}: {_reason(error)}") from error


def _check(reply: httpx2.Response, what: str, options: DownloadOptions) -> None:
    if reply.is_success:
        return
    status, code = reply.status_code, reply.headers.get("x-error-code", "")
    if status in (408, 416, 425, 429) or (status >= 500 and status != 501):
        raise TransientError(f"{what}: HTTP {status}", _retry_after(reply), status)
    _refuse(status, code, what, bool(options.hub_token))


def _check_part(reply: httpx2.Response, headers: dict[str, str] | None, what: str) -> None:
    """Raise `ModelFetchError` for bytes that are not from where they were asked for."""
    if headers is None or "range" not in headers:
        return
    start = headers["range"].removeprefix("bytes=").partition("-")[0]
    found = reply.headers.get("content-range", "")
    if reply.status_code != 206 or not found.startswith(f"bytes {start}-"):
        raise ModelFetchError(f"{what}: the server gives no parts of files; download it whole")


def _refuse(status: int, code: str, what: str, with_token: bool) -> NoReturn:
    token = "the token was refused" if with_token else "set HF_TOKEN if it needs one"
    if code == "GatedRepo":
        raise ModelFetchError(f"{what} is gated: accept its terms on the hub's page; {token}")
    if status == 404 or code == "RepoNotFound":
        hint = f" (or it is private: {token})" if code == "RepoNotFound" else ""
        raise ModelNotFoundError(f"there is no {what}{hint}; correct the name")
    if status in (401, 403):
        raise ModelFetchError(f"{what} may not be read (HTTP {status}): {token}")
    raise ModelFetchError(f"{what} cannot be downloaded: the server answers HTTP {status}")


def _retry_after(reply: httpx2.Response) -> float | None:
    text = reply.headers.get("retry-after", "").strip()
    if _LENGTH.fullmatch(text):
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time())
    except (TypeError, ValueError, OverflowError):
        return None


def _redirected(reply: httpx2.Response, url: str, what: str) -> str:
    location = reply.headers.get("location")
    try:
        target = urljoin(url, location) if location else ""
    except ValueError:
        target = ""
    if not is_web_address(target):
        raise ModelFetchError(f"{what} is redirected to something that is no web address")
    if urlsplit(url).scheme == "https" and urlsplit(target).scheme == "http":
        raise ModelFetchError(f"{what} is redirected from https to http; that is refused")
    return target


def _own_headers(options: DownloadOptions, home: str) -> dict[str, str]:
    pairs = (header.partition(":") for header in options.download_header)
    own = {name.strip().lower(): value.strip() for name, _, value in pairs}
    if _origin(home) == _origin(options.endpoint) and (token := options.token):
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


def _origin(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return parts.scheme, (parts.hostname or "").lower(), port


def _shown(url: str) -> str:
    """Return the address without what may be a secret: user, password, query."""
    parts = urlsplit(url)
    path = re.sub(r"/api/models/(.+)/revision/([^/?]+)$", r"/\1@\2", parts.path)
    return f"{parts.netloc.rpartition('@')[2]}{path}"


def _reason(error: Exception) -> str:
    if isinstance(error, httpx2.TimeoutException):
        return "no answer in time"
    text = str(error).strip()
    return f"the connection failed ({text or type(error).__name__})"
