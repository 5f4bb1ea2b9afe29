"""The one place that knows httpx2: how its clients are set up, and its errors made ours."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import msgspec

from open_llm_client.errors import ConnectionFailed, TimedOut
from open_llm_client.protocol import Call, error_from, unexpected
from open_llm_client.settings import Settings

CONNECT_TIMEOUT = 5.0
PROBE_TIMEOUT = 5.0
# Idle connections end before the server's own limit (5 s in uvicorn), which would be a race.
LIMITS = httpx2.Limits(max_connections=1000, max_keepalive_connections=100, keepalive_expiry=4.0)


def connection_options(settings: Settings) -> dict[str, Any]:
    """Return the arguments common to httpx2's Client and AsyncClient."""
    headers = {"user-agent": "open-llm-client", "accept": "application/json, text/event-stream"}
    if settings.api_key:
        headers["authorization"] = f"Bearer {settings.api_key}"
    return {
        "base_url": settings.url,
        "headers": headers,
        "limits": LIMITS,
        "verify": _trust(settings.url),
        "trust_env": not _is_loopback(settings.host),
    }


def request_options(settings: Settings, call: Call[Any]) -> dict[str, Any]:
    """Return the arguments of `build_request` for one call."""
    headers = {} if call.content is None else {"content-type": "application/json"}
    return {
        "method": call.method,
        "url": call.path,
        "content": call.content,
        "headers": headers,
        "timeout": _timeout(settings, call),
    }


@contextmanager
def translated(
    settings: Settings, call: Call[Any], broken: type[ConnectionFailed] = ConnectionFailed
) -> Iterator[None]:
    """Turn foreign errors into this package's, in one place; a broken connection into `broken`."""
    try:
        yield
    except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError) as error:
        message = f"cannot reach {settings.url}: {_reason(error)}"
        raise ConnectionFailed(message, retryable=True) from error
    except httpx2.TimeoutException as error:
        message = f"{settings.url}{call.path} was silent for {_timeout(settings, call).read} s"
        raise TimedOut(message) from error
    except (httpx2.SSEError, httpx2.DecodingError, msgspec.DecodeError) as error:
        raise unexpected(settings.url, call.path) from error
    except httpx2.TransportError as error:
        message = f"the connection to {settings.url} broke: {_reason(error)}"
        raise broken(message) from error


def raise_for(response: httpx2.Response) -> None:
    """Raise the error that an answer, already read, stands for.

    Raises:
        ApiError: Always.
    """
    raise error_from(response.status_code, response.headers, response.content)


def _timeout(settings: Settings, call: Call[Any]) -> httpx2.Timeout:
    seconds = PROBE_TIMEOUT if call.probe else settings.timeout
    connect = CONNECT_TIMEOUT if seconds is None else min(CONNECT_TIMEOUT, seconds)
    return httpx2.Timeout(seconds, connect=connect)


def _trust(url: str) -> ssl.SSLContext | bool:
    """Trust the usual authorities, or those that SSL_CERT_FILE and SSL_CERT_DIR name.

    For plain HTTP nobody, as loading them takes 70 ms.
    """
    if url.startswith("http://"):
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    named = os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR")
    return ssl.create_default_context() if named else True


def _is_loopback(host: str) -> bool:
    """Proxies of the environment are not for this machine."""
    return host in ("localhost", "::1") or host.startswith("127.")


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
