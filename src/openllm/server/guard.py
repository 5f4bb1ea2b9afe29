"""The outermost door: who may ask, and the shape of every refusal.

Wraps the whole application, whatever framework serves a path inside, so nothing is reachable that
this file did not admit. It judges the raw ASGI path and headers, never a URL put together from
them. Knows nothing of models or request bodies.
"""

from __future__ import annotations

import asyncio
import logging
from time import perf_counter

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from openllm.config.server import ServerSettings
from openllm.server.access_log import log_access
from openllm.server.auth import load_api_keys
from openllm.server.errors import INTERNAL_MESSAGE
from openllm.server.hosts import (
    HostPolicy,
    OriginPolicy,
    cors_headers,
    is_preflight,
    preflight_headers,
)
from openllm.server.metrics_requests import RequestMeasures
from openllm.server.reply import Reply
from openllm.server.request_id import request_id

PROBES = frozenset({"/livez", "/readyz", "/healthz"})
"""What needs no key: exactly these paths, read by GET or HEAD."""

NO_KEY = (
    "no valid API key was sent; send one header, Authorization: Bearer KEY or x-api-key: KEY, "
    "with a key that the server was started with (--api-key, --api-key-file, OPEN_LLM_API_KEY)"
)

CLIENT_CLOSED = 499

logger = logging.getLogger("openllm.server")


class Guard:
    """Checks Host, Origin and API key, names the request, and gives every error one shape."""

    def __init__(
        self, app: ASGIApp, settings: ServerSettings, requests: RequestMeasures | None = None
    ) -> None:
        """`requests` counts what passes and what is refused.

        Raises:
            ConfigurationError: A key, a host name or an origin is unusable.
        """
        self._app = app
        self._keys = load_api_keys(settings.api_key, settings.api_key_file)
        self._hosts = HostPolicy(settings.loopback, settings.allowed_host)
        self._origins = OriginPolicy(settings.allowed_origin)
        self._access_log = settings.access_log
        self._requests = requests or RequestMeasures()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        scope.setdefault("state", {})["request_id"] = request_id(scope["headers"])
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        else:
            raise RuntimeError(f"ASGI scope type {scope['type']!r} is not served")

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = perf_counter()
        origin = self._origins.allowed(scope["headers"])
        reply = Reply(scope, send, cors_headers(origin) if origin else ())
        try:
            if (refusal := self._refusal(scope)) is not None:
                await reply.refuse(*refusal)
            elif origin and is_preflight(scope["headers"], scope["method"]):
                await reply.permit(preflight_headers(scope["headers"]))
            elif not self._keyed(scope):
                await reply.refuse(401, NO_KEY, [(b"www-authenticate", b"Bearer")])
            else:
                await self._run(scope, receive, reply)
        finally:
            status, seconds = reply.status or CLIENT_CLOSED, perf_counter() - started
            self._requests.observe(scope, status, seconds)
            if self._access_log:
                log_access(scope, status, seconds)

    async def _run(self, scope: Scope, receive: Receive, reply: Reply) -> None:
        listener = _Listener(receive)
        try:
            await self._app(scope, listener, reply)
            if not reply.status and not listener.disconnected:
                raise RuntimeError("the application returned without a response")
        except asyncio.CancelledError:
            await reply.refuse(503, "the server is shutting down; try again")
            raise
        except Exception:
            logger.exception("request %s failed", scope["state"]["request_id"])
            await reply.refuse(500, INTERNAL_MESSAGE)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Admit by the same rules; a foreign page may not even open a socket."""
        if self._refusal(scope) is None and self._keyed(scope):
            await self._app(scope, receive, send)
            return
        await receive()
        await send({"type": "websocket.close", "code": 1008})

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        headers = scope["headers"]
        return self._hosts.refusal(headers, scope["http_version"]) or self._origins.refusal(
            headers, scope.get("method", "CONNECT")
        )

    def _keyed(self, scope: Scope) -> bool:
        probe = scope.get("method") in ("GET", "HEAD") and scope["path"] in PROBES
        return probe or self._keys.accepts(scope["headers"])


class _Listener:
    """The `receive` an application gets; remembers whether it heard that the client left."""

    __slots__ = ("_receive", "disconnected")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.disconnected = False

    async def __call__(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self.disconnected = True
        return message
