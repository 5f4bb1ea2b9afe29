"""The gRPC server: its one door and its limits.

gRPC's own core speaks HTTP/2: it bounds streams, metadata and unread output, and sends away clients
that flood it with pings. It listens on a Unix socket that only this process can reach.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
from collections.abc import Awaitable, Callable
from ssl import SSLContext
from typing import Any

import grpc

from openllm.config.server import ServerSettings
from openllm.fleet import Fleet
from openllm.runner.process import private_folder
from openllm.server.access_log import show_access
from openllm.server.auth import load_api_keys
from openllm.server.errors import ProtocolError
from openllm.server.grpc_api import METHODS
from openllm.server.grpc_call import Call, Handler, Service
from openllm.server.grpc_health import CHECK, standard_methods
from openllm.server.grpc_relay import HANDSHAKE_SECONDS, Relay

MAX_STREAMS = 1000
"""Calls that one connection may have at once; its client lets more of them wait."""

# Calls that asyncio has not taken yet; beyond the first some are dropped, beyond the second all.
_MAX_PENDING, _MOST_PENDING = 4096, 8192
_MAX_METADATA = 16 * 1024
# A client may ping this often while an answer is awaited; one that does so more often is sent away.
_MIN_PING_SECONDS = 10
# Silent connections are probed, so that one whose client is gone without a word ends.
_KEEPALIVE_SECONDS = 60
_KEEPALIVE_TIMEOUT_SECONDS = 20
# Beyond the grace, for telling those who are cut off.
_FAREWELL_SECONDS = 2.0


class GrpcServer:
    """Serves `fleet`. Whoever made the fleet starts and closes it."""

    def __init__(self, fleet: Fleet, settings: ServerSettings) -> None:
        """Needs a running event loop; raises `ConfigurationError` for an unusable key."""
        self._service = Service(
            fleet, settings, load_api_keys(settings.api_key, settings.api_key_file)
        )
        self._settings = settings
        show_access(settings)
        self._server = grpc.aio.server(options=_options(settings))
        self._server.add_generic_rpc_handlers((_Door(self._service),))
        self._folder = private_folder()
        self._relay = Relay(str(self._folder / "grpc.sock"), small=(CHECK,))

    def apply(self, settings: ServerSettings) -> None:
        """Serve by these keys and time limits from now on.

        Raises:
            ConfigurationError: A key is unusable; nothing was changed.
        """
        keys = load_api_keys(settings.api_key, settings.api_key_file)
        self._service.keys, self._service.settings = keys, settings
        show_access(settings)

    async def start(self, sock: socket.socket, tls: SSLContext | None = None) -> None:
        """Serve the connections of a listening socket."""
        self._server.add_insecure_port(f"unix:{self._folder / 'grpc.sock'}")
        await self._server.start()
        self._ended = asyncio.ensure_future(self._server.wait_for_termination())
        if tls is not None:
            tls.set_alpn_protocols(["h2"])  # Without it clients take this for HTTP/1.1.
        await self._relay.start(sock, tls, self._settings.backlog)

    async def stop(self, grace: float) -> None:
        """Take no more calls; end those that are not done within `grace` seconds."""
        self._relay.refuse()
        self._service.cancel(standing=True)
        stopping = asyncio.ensure_future(self._server.stop(grace + _FAREWELL_SECONDS))
        await asyncio.wait((stopping,), timeout=grace)
        self.cancel()
        await asyncio.gather(stopping, self._ended, return_exceptions=True)
        self._relay.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def cancel(self) -> None:
        """End the calls that are under way with an error."""
        self._service.cancel()

    async def wait(self) -> None:
        """Wait until the server has ended."""
        # Cancelling what grpcio waits for would leave it unable to stop.
        await asyncio.wait((self._ended,))


class _Door(grpc.GenericRpcHandler):
    """Gives every call, whatever it names, to the service: none passes it by."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._methods = {**METHODS, **standard_methods()}

    def service(self, handler_call_details: Any) -> Any:
        path: str = handler_call_details.method
        behaviour = self._behaviour(path, self._methods.get(path) or _unknown(path))
        return grpc.stream_stream_rpc_method_handler(behaviour)

    def _behaviour(self, path: str, handler: Handler) -> Callable[[Any, Any], Awaitable[None]]:
        async def behave(_: Any, context: Any) -> None:
            # As /healthz, so that a probe needs no key.
            await self._service.serve(path, handler, context, open_to_all=path == CHECK)

        return behave


def _unknown(path: str) -> Handler:
    async def refuse(_: Call, __: Fleet) -> None:
        methods = ", ".join(METHODS)
        raise ProtocolError(501, f"there is no method {path[:80]!r}; there are {methods}")

    return refuse


def _options(settings: ServerSettings) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", settings.max_body_bytes),
        ("grpc.max_concurrent_streams", MAX_STREAMS),
        ("grpc.server.max_pending_requests", _MAX_PENDING),
        ("grpc.server.max_pending_requests_hard_limit", _MOST_PENDING),
        ("grpc.max_metadata_size", _MAX_METADATA),
        ("grpc.absolute_max_metadata_size", _MAX_METADATA),
        ("grpc.max_connection_idle_ms", settings.timeout_keep_alive * 1000),
        ("grpc.keepalive_time_ms", _KEEPALIVE_SECONDS * 1000),
        ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_SECONDS * 1000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", _MIN_PING_SECONDS * 1000),
        ("grpc.server_handshake_timeout_ms", int(HANDSHAKE_SECONDS * 1000)),
        # Compressed messages are refused, as bodies are: their size is not known before.
        ("grpc.compression_enabled_algorithms_bitset", 1),
    ]
