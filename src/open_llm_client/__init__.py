"""Client of OpenLLM-Server.

    import open_llm_client

    client = open_llm_client.create("http://localhost:5000")
    print(client.chat("Hello, how are you?"))
    for piece in client.chat("Tell me a story.", stream=True):
        print(piece, end="", flush=True)

Needs nothing of the server's packages. The HTTP library is loaded with the first client.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from open_llm_client.errors import (
    ApiError,
    BadRequest,
    ClientError,
    ConnectionFailed,
    Forbidden,
    InvalidAddress,
    NotFound,
    ServerError,
    StreamInterrupted,
    TimedOut,
    TooManyRequests,
    Unauthorized,
    UnexpectedAnswer,
)
from open_llm_client.results import ChatResult, CompletionResult, Health, Model
from open_llm_client.settings import DEFAULT_URL, create_settings

if TYPE_CHECKING:
    from open_llm_client.async_client import AsyncChatStream, AsyncClient
    from open_llm_client.client import ChatStream, Client

__all__ = [
    "ApiError",
    "AsyncChatStream",
    "AsyncClient",
    "BadRequest",
    "ChatResult",
    "ChatStream",
    "Client",
    "ClientError",
    "CompletionResult",
    "ConnectionFailed",
    "Forbidden",
    "Health",
    "InvalidAddress",
    "Model",
    "NotFound",
    "ServerError",
    "StreamInterrupted",
    "TimedOut",
    "TooManyRequests",
    "Unauthorized",
    "UnexpectedAnswer",
    "create",
    "create_async",
]

_LOADED_ON_FIRST_USE = {
    "AsyncChatStream": "async_client",
    "AsyncClient": "async_client",
    "ChatStream": "client",
    "Client": "client",
}


def create(
    url: str = DEFAULT_URL,
    *,
    api_key: str | None = None,
    timeout: float | None = 600.0,
    max_retries: int = 2,
) -> Client:
    """Return a client of the server at `url`. Nothing is sent yet.

    Args:
        url: Address of the server; a trailing slash or "/v1" may be left on.
        api_key: Key of the server; by default that of the environment, OPEN_LLM_API_KEY, if set.
        timeout: Seconds the server may stay silent before `TimedOut`; None waits for ever.
        max_retries: Times a request is sent again after a failure that may pass: status 408, 409,
            429 or 5xx, or no connection. Never once a stream has begun.

    Raises:
        InvalidAddress: The URL or the key cannot be used.
        ValueError: `timeout` or `max_retries` is out of range.
    """
    from open_llm_client.client import Client

    settings = create_settings(url, api_key=api_key, timeout=timeout, max_retries=max_retries)
    return Client(settings)


def create_async(
    url: str = DEFAULT_URL,
    *,
    api_key: str | None = None,
    timeout: float | None = 600.0,
    max_retries: int = 2,
) -> AsyncClient:
    """Return a client for one event loop, which keeps its connections; arguments as in `create`."""
    from open_llm_client.async_client import AsyncClient

    settings = create_settings(url, api_key=api_key, timeout=timeout, max_retries=max_retries)
    return AsyncClient(settings)


def __getattr__(name: str) -> Any:
    if name in _LOADED_ON_FIRST_USE:
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_LOADED_ON_FIRST_USE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
