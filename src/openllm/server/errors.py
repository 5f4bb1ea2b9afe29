"""One table from what went wrong to HTTP status and OpenAI's error body.

Errors carry meaning (`openllm.errors`); only here do they become status codes. An answer that has
not begun gets the status; a stream that has begun gets one error event and ends.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import orjson

from openllm.errors import (
    DeadlineError,
    EngineCrashedError,
    EngineNotInstalledError,
    EngineStartError,
    EngineUnavailableError,
    InvalidRequestError,
    ModelFetchError,
    ModelNotFoundError,
    OpenLLMError,
    OverloadedError,
)

RawHeaders = Sequence[tuple[bytes, bytes]]

STATUS: dict[type[OpenLLMError], int] = {
    InvalidRequestError: 400,
    ModelNotFoundError: 404,
    ModelFetchError: 503,
    OverloadedError: 429,
    EngineNotInstalledError: 503,
    EngineStartError: 503,
    EngineCrashedError: 503,
    EngineUnavailableError: 503,
    DeadlineError: 504,
}
"""Subclasses share the status of their base; any other error is a fault of ours: 500."""

# Status -> (error type, error code when the error has none of its own).
_NAMES: dict[int, tuple[str, str]] = {
    400: ("invalid_request_error", "bad_request"),
    401: ("authentication_error", "invalid_api_key"),
    403: ("permission_error", "forbidden"),
    404: ("not_found_error", "not_found"),
    405: ("invalid_request_error", "method_not_allowed"),
    408: ("invalid_request_error", "request_timeout"),
    413: ("invalid_request_error", "request_too_large"),
    415: ("invalid_request_error", "unsupported_media_type"),
    429: ("rate_limit_error", "overloaded"),
    431: ("invalid_request_error", "request_headers_too_large"),
    500: ("server_error", "internal_error"),
    501: ("invalid_request_error", "not_implemented"),
    503: ("server_error", "unavailable"),
    504: ("server_error", "timeout"),
}

INTERNAL_MESSAGE = "the server failed while it handled the request; its log has the details"
_MAX_RETRY_AFTER = 60


class ProtocolError(OpenLLMError):
    """The request is wrong as HTTP, before it means anything; `status` says how."""

    def __init__(self, status: int, message: str, *, headers: RawHeaders = ()) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers


class ErrorReply(NamedTuple):
    status: int
    body: bytes
    headers: list[tuple[bytes, bytes]]


def error_reply(error: Exception) -> ErrorReply:
    """Return what a request that failed with `error` is answered."""
    status = error_status(error)
    headers = [*error.headers] if isinstance(error, ProtocolError) else []
    if (seconds := retry_after(error)) is not None:
        headers.append((b"retry-after", b"%d" % seconds))
    return ErrorReply(status, error_json(error), headers)


def retry_after(error: Exception) -> int | None:
    """Return the seconds after which trying again makes sense; None if it never does."""
    if error_status(error) not in (429, 503):
        return None
    seconds = getattr(error, "retry_after", None) or 1
    return min(max(math.ceil(seconds), 1), _MAX_RETRY_AFTER)


def error_code(error: Exception) -> str:
    """Return the machine-readable name of what went wrong."""
    status = error_status(error)
    code = error.code if isinstance(error, OpenLLMError) and status != 500 else None
    return code or _names(status)[1]


def error_status(error: Exception) -> int:
    if isinstance(error, ProtocolError):
        return error.status
    for base in type(error).__mro__:
        if base in STATUS:
            return STATUS[base]
    return 500


def error_json(error: Exception) -> bytes:
    """Return the error body; an error of ours that nobody foresaw keeps its text to itself."""
    status = error_status(error)
    if status == 500 or not isinstance(error, OpenLLMError):
        return error_body(500, INTERNAL_MESSAGE)
    return error_body(status, error.message, param=error.param, code=error.code)


def error_body(
    status: int, message: str, *, param: str | None = None, code: str | None = None
) -> bytes:
    """Return OpenAI's error object; text that is no valid Unicode is made so."""
    kind, usual_code = _names(status)
    error: dict[str, Any] = {
        "message": _encodable(message),
        "type": kind,
        "param": None if param is None else _encodable(param),
        "code": code or usual_code,
    }
    return orjson.dumps({"error": error})


def _names(status: int) -> tuple[str, str]:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return _NAMES.get(status, (kind, "error"))


def _encodable(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")
