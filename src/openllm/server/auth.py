"""API keys: which are configured, and whether a request carries one.

A request presents exactly one credential: `Authorization: Bearer KEY` or `x-api-key: KEY`. Knows
nothing of routes; the guard decides what needs a key.
"""

from __future__ import annotations

import logging
import stat
from collections.abc import Iterable, Sequence
from hashlib import sha256
from hmac import compare_digest
from pathlib import Path

from openllm.config.given_file import content_of
from openllm.errors import ConfigurationError

Headers = Iterable[tuple[bytes, bytes]]

logger = logging.getLogger("openllm.server")


class ApiKeys:
    """The configured keys, held as digests only. With none configured every request passes."""

    def __init__(self, keys: Iterable[str]) -> None:
        """Raises `ConfigurationError` for a key that no client could send."""
        self._digests = tuple({_digest(_checked(key).encode()): None for key in keys})

    def __bool__(self) -> bool:
        return bool(self._digests)

    def accepts(self, headers: Headers) -> bool:
        """Whether the raw request headers carry one valid key.

        The time taken does not depend on which key matches, nor on how much of it does.
        """
        if not self._digests:
            return True
        credentials = [
            (name, value) for name, value in headers if name in (b"authorization", b"x-api-key")
        ]
        if len(credentials) != 1:
            return False
        presented = _digest(_secret(*credentials[0]))
        found = False
        for digest in self._digests:
            found |= compare_digest(digest, presented)
        return found


def load_api_keys(keys: Sequence[str], file: Path | None) -> ApiKeys:
    """Gather the keys given one by one and those of a file: one a line, comments begin with `#`.

    Raises:
        ConfigurationError: A key is unusable, or the file cannot be read or holds none.
    """
    return ApiKeys([*keys, *(_read_keys(file) if file else ())])


def _secret(name: bytes, value: bytes) -> bytes:
    """Return the key a credential header carries; the scheme is spelled `Bearer`, as documented."""
    if name == b"x-api-key":
        return value
    scheme, _, secret = value.partition(b" ")
    return secret if scheme == b"Bearer" else b""


def _digest(secret: bytes) -> bytes:
    return sha256(secret).digest()


def _checked(key: str) -> str:
    if not key:
        raise ConfigurationError(
            "an API key is empty; give one or leave the option out", param="api_key"
        )
    if not all("!" <= char <= "~" for char in key):
        raise ConfigurationError(
            "an API key holds a space, a control or a non-ASCII character, which no client can "
            "send in a header; use printable ASCII",
            param="api_key",
        )
    return key


def _read_keys(file: Path) -> list[str]:
    try:
        lines = content_of(file).decode().splitlines()
        mode = file.stat().st_mode
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigurationError(
            f"the API key file {str(file)!r} cannot be read: {reason}", param="api_key_file"
        ) from error
    keys = [key for line in lines if (key := line.strip()) and not key.startswith("#")]
    if not keys:
        raise ConfigurationError(
            f"the API key file {str(file)!r} holds no key; write one a line",
            param="api_key_file",
        )
    if mode & stat.S_IROTH:
        logger.warning("API key file %r is readable by every user; chmod 600 it.", str(file))
    return keys
