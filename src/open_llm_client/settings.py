"""Where the server is and how patient the client is: checked once, when the client is created."""

from __future__ import annotations

import math
import os
from urllib.parse import SplitResult, urlsplit

import msgspec

from open_llm_client.errors import InvalidAddress

DEFAULT_URL = "http://127.0.0.1:5000"
API_KEY_VARIABLE = "OPEN_LLM_API_KEY"
API_PREFIXES = ("/openai/v1", "/v1")


class Settings(msgspec.Struct, frozen=True):
    """What every call of one client shares.

    Attributes:
        url: Address of the server, without a trailing slash or API prefix.
        host: Host name in it.
        api_key: Sent as a bearer token; empty for none.
        timeout: Seconds the server may stay silent; None waits for ever.
        max_retries: Times a failed request is sent again.
    """

    url: str
    host: str
    api_key: str
    timeout: float | None
    max_retries: int

    def __repr__(self) -> str:
        """Show everything but the key."""
        return f"Settings(url={self.url!r}, timeout={self.timeout}, max_retries={self.max_retries})"


def create_settings(
    url: str, *, api_key: str | None, timeout: float | None, max_retries: int
) -> Settings:
    """Check and normalise the arguments of `create`.

    Raises:
        InvalidAddress: The URL or the key cannot be used; the message says how to write it.
        ValueError: `timeout` or `max_retries` is out of range.
    """
    if timeout is not None and not (timeout > 0 and math.isfinite(timeout)):
        raise ValueError(f"timeout must be a positive number of seconds or None, not {timeout!r}")
    if max_retries < 0:
        raise ValueError(f"max_retries must be 0 or more, not {max_retries!r}")
    parts = _split(url)
    return Settings(
        url=f"{parts.scheme}://{parts.netloc}{_base_path(parts.path)}",
        host=parts.hostname or "",
        api_key=_checked_key(os.environ.get(API_KEY_VARIABLE, "") if api_key is None else api_key),
        timeout=timeout,
        max_retries=max_retries,
    )


def _split(url: str) -> SplitResult:
    text = url.strip()
    if "://" not in text:
        text = f"http://{text}"
    if not text.isprintable() or " " in text:
        raise InvalidAddress(f"{url!r} contains a blank or control character; {_EXAMPLE}")
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError as error:
        raise InvalidAddress(f"{url!r} is no server address: {error}; {_EXAMPLE}") from None
    problem = _problem(parts)
    if problem:
        raise InvalidAddress(f"{url!r} {problem}; {_EXAMPLE}")
    return parts


def _problem(parts: SplitResult) -> str | None:
    if parts.scheme not in ("http", "https"):
        return f"has the scheme {parts.scheme!r}, not http or https"
    if not parts.hostname:
        return "names no host"
    if parts.hostname in ("http", "https"):
        return f"lacks '://' after {parts.hostname!r}"
    if parts.username is not None:
        return "carries a user name; pass the key as api_key="
    if parts.query or parts.fragment:
        return "has a query or fragment, which a server address has not"
    return None


def _base_path(path: str) -> str:
    base = path.rstrip("/")
    for prefix in API_PREFIXES:
        if base.endswith(prefix):
            return base.removesuffix(prefix).rstrip("/")
    return base


def _checked_key(key: str) -> str:
    stripped = key.strip()
    if not (stripped.isascii() and (stripped.isprintable() and " " not in stripped)):
        raise InvalidAddress(
            f"the API key (api_key= or {API_KEY_VARIABLE}) must be printable ASCII without blanks"
        )
    return stripped


_EXAMPLE = f"write it like {DEFAULT_URL}"
