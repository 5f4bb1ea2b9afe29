"""What a server's answer means: errors by status, where it redirects, how to name its address."""

from __future__ import annotations

import re
from email.utils import parsedate_to_datetime
from time import time
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import urljoin, urlsplit

from openllm.config.download import DownloadOptions, is_web_address
from openllm.errors import ModelFetchError, ModelNotFoundError
from openllm.models.transfer_retry import TransientError

if TYPE_CHECKING:
    import httpx2

_CHANGED = "changed "
_OF_COMMIT = re.compile(r"/resolve/[0-9a-f]{40}/")
"""Of an address that was made from a listing, nobody has typed it."""
_SECONDS = re.compile(r"[0-9]{1,18}")


def check_status(reply: httpx2.Response, what: str, options: DownloadOptions) -> None:
    """Return if `reply` is what was asked for.

    Args:
        reply: The answer.
        what: The address, as messages may name it.
        options: Whether there is a token to be refused.

    Raises:
        TransientError: The server says to come again.
        ModelNotFoundError: It has no such thing.
        ModelFetchError: It refuses.
    """
    if reply.is_success:
        return
    status, code = reply.status_code, reply.headers.get("x-error-code", "")
    if status in (408, 416, 425, 429) or (status >= 500 and status != 501):
        raise TransientError(f"{what}: HTTP {status}", _retry_after(reply), status)
    _refuse(status, code, what, bool(options.hub_token))


def check_part(reply: httpx2.Response, headers: dict[str, str] | None, what: str) -> None:
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
    if status == 404 and _OF_COMMIT.search(what):
        raise ModelNotFoundError(
            f"{what} is listed by its hub, which does not have it (HTTP 404); try again later, or"
            " take another revision of the model, or another hub by --hub-endpoint"
        )
    if status == 404 or code == "RepoNotFound":
        hint = f" (or it is private: {token})" if code == "RepoNotFound" else ""
        raise ModelNotFoundError(f"there is no {what}{hint}; correct the name")
    if status in (401, 403):
        raise ModelFetchError(f"{what} may not be read (HTTP {status}): {token}")
    raise ModelFetchError(f"{what} cannot be downloaded: the server answers HTTP {status}")


def _retry_after(reply: httpx2.Response) -> float | None:
    text = reply.headers.get("retry-after", "").strip()
    if _SECONDS.fullmatch(text):
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time())
    except (TypeError, ValueError, OverflowError):
        return None


def redirected(reply: httpx2.Response, url: str, what: str) -> str:
    """Return where `reply` sends the request for `url`; refuses what is no address, or unsafe."""
    location = reply.headers.get("location")
    try:
        target = urljoin(url, location) if location else ""
    except ValueError:
        target = ""
    if not is_web_address(target):
        raise no_address(what)
    if urlsplit(url).scheme == "https" and urlsplit(target).scheme == "http":
        raise ModelFetchError(f"{what} is redirected from https to http; that is refused")
    return target


def no_address(what: str) -> ModelFetchError:
    return ModelFetchError(f"{what} is redirected to something that is no web address")


def content_name(reply: httpx2.Response) -> str:
    """Return what a server calls the content at an address: its ETag, or else when it changed last.

    "" if it says neither.
    """
    changed = reply.headers.get("last-modified", "")
    return reply.headers.get("etag", "") or (changed and f"{_CHANGED}{changed}")


def is_other(reply: httpx2.Response, name: str) -> bool:
    """Whether a server that called its content `name` calls it something else by now."""
    by_time = name.startswith(_CHANGED)
    now = reply.headers.get("last-modified" if by_time else "etag", "")
    return bool(name and now) and now != name.removeprefix(_CHANGED)


def origin_of(url: str) -> tuple[str, str, int]:
    """Return the scheme, host and port of an address."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return parts.scheme, (parts.hostname or "").lower(), port


def shown_address(url: str) -> str:
    """Return the address without what may be a secret: user, password, query."""
    parts = urlsplit(url)
    path = re.sub(r"/api/models/(.+)/revision/([^/?]+)$", r"/\1@\2", parts.path)
    return f"{parts.netloc.rpartition('@')[2]}{path}"
