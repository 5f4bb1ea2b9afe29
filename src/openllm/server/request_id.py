"""The id of a request: the client's if it is harmless, else our own."""

from __future__ import annotations

import re
from secrets import token_hex

from openllm.server.hosts import Headers, values

_HARMLESS = re.compile(rb"[A-Za-z0-9._-]{1,128}")


def request_id(headers: Headers) -> str:
    """Return the client's `x-request-id` if it can go into headers and logs as it is."""
    given = values(headers, b"x-request-id")
    if len(given) == 1 and _HARMLESS.fullmatch(given[0]):
        return given[0].decode("ascii")
    return new_request_id()


def new_request_id() -> str:
    """Return an id no other request has."""
    return f"req_{token_hex(12)}"
