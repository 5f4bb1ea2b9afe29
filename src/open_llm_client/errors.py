"""What can go wrong when a client talks to a server.

ClientError
 +- InvalidAddress (ValueError)           the server's address or the API key cannot be used
 +- ConnectionFailed (ConnectionError)    nobody answers there, or the connection broke
 |   +- StreamInterrupted                 the stream ended before the reply did
 +- TimedOut (TimeoutError)               connected, but silent for longer than the timeout
 +- UnexpectedAnswer                      whatever answers there is no OpenLLM-Server
 +- ApiError                              the server refused or failed, and said why
     +- BadRequest                        400, 413, 415, 422: the request is wrong as written
     +- Unauthorized                      401: API key missing or wrong
     +- Forbidden                         403: the server does not accept this Host or Origin
     +- NotFound                          404: no such model or route
     +- TooManyRequests                   429: the queue is full
     +- ServerError                       5xx, and failures in the middle of a stream
"""

from __future__ import annotations


class ClientError(Exception):
    """Base of every error of this package.

    Attributes:
        retryable: Sending the same request again may succeed, and cannot do its work twice.
        retry_after: Seconds the server asked to wait before trying again, if it did.
    """

    retryable = False
    retry_after: float | None = None


class InvalidAddress(ClientError, ValueError):
    """The server's address or the API key cannot be used as written."""


class ConnectionFailed(ClientError, ConnectionError):
    """Nobody answers at the address, or the connection broke.

    `retryable` is true when nothing of the request had been sent.
    """

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable


class StreamInterrupted(ConnectionFailed):
    """The stream ended before the reply did; what arrived is not the whole reply."""


class TimedOut(ClientError, TimeoutError):
    """The server was silent, or not ready, for longer than the timeout."""


class UnexpectedAnswer(ClientError):
    """The answer is not one that OpenLLM-Server gives."""


class ApiError(ClientError):
    """The server refused the request or failed at it.

    Attributes:
        message: The server's own words.
        status: HTTP status; None for an error inside a stream, whose status was 200.
        type: Kind of error, as in the OpenAI API, e.g. "invalid_request_error".
        code: Machine-readable name, e.g. "model_not_found".
        param: Field of the request that is to blame.
        request_id: Name of the request in the server's log.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        type: str | None = None,  # noqa: A002 - the name on the wire
        code: str | None = None,
        param: str | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.type = type
        self.code = code
        self.param = param
        self.request_id = request_id
        self.retry_after = retry_after
        self.retryable = status is not None and (status in (408, 409, 429) or status >= 500)

    def __str__(self) -> str:
        origin = "in the stream" if self.status is None else f"HTTP {self.status}"
        details = [origin, self.code, self.request_id and f"request {self.request_id}"]
        return f"{self.message} [{', '.join(filter(None, details))}]"


class BadRequest(ApiError):
    """The request is wrong as written; `param` names the field."""


class Unauthorized(ApiError):
    """The API key is missing or wrong."""


class Forbidden(ApiError):
    """The server does not accept requests under this host name or origin."""


class NotFound(ApiError):
    """The server has no such model or route."""


class TooManyRequests(ApiError):
    """The server's queue is full, or this key's limit is reached."""


class ServerError(ApiError):
    """The server failed, is loading its model, or is shutting down."""


_BY_STATUS: dict[int, type[ApiError]] = {
    400: BadRequest,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    413: BadRequest,
    415: BadRequest,
    422: BadRequest,
    429: TooManyRequests,
}


def class_for_status(status: int) -> type[ApiError]:
    """Return the class that stands for an HTTP status of 300 or more."""
    return ServerError if status >= 500 else _BY_STATUS.get(status, ApiError)
