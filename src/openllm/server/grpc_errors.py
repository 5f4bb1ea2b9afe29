"""One table from HTTP status to gRPC code, so that an error means the same by both protocols."""

from __future__ import annotations

from openllm.errors import OpenLLMError
from openllm.server.errors import INTERNAL_MESSAGE, error_code, error_status, retry_after

CODES: dict[int, str] = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED",
    413: "RESOURCE_EXHAUSTED",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
"""Names of `grpc.StatusCode`; what is not here is INTERNAL."""

# A client takes 8 KiB of metadata, in which a character may have nine bytes.
_MAX_MESSAGE = 512
_MAX_PARAM = 128

Metadata = tuple[tuple[str, str], ...]


def grpc_code(error: Exception) -> str:
    """Return the name of the code that a call ends with if it failed with `error`."""
    return CODES.get(error_status(error), "INTERNAL")


def grpc_message(error: Exception) -> str:
    """Return the status message; an error of ours that nobody foresaw keeps its text to itself."""
    if grpc_code(error) == "INTERNAL" or not isinstance(error, OpenLLMError):
        return INTERNAL_MESSAGE
    message = error.message.encode("utf-8", "replace").decode()
    return message if len(message) <= _MAX_MESSAGE else message[:_MAX_MESSAGE] + "..."


def error_metadata(error: Exception) -> Metadata:
    """Return what the body of an HTTP error says beside its message, and when to try again."""
    fields = [("error-code", error_code(error))]
    if isinstance(error, OpenLLMError) and error.param is not None:
        param = error.param.encode("ascii", "backslashreplace").decode()
        fields.append(("error-param", "".join(filter(str.isprintable, param))[:_MAX_PARAM]))
    if (seconds := retry_after(error)) is not None:
        fields.append(("retry-after", str(seconds)))
    return tuple(fields)
