"""The API process with --grpc: serves the fleet by gRPC until a signal, in place of uvicorn."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import signal
import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from openllm.config.server import ServerSettings
from openllm.errors import ConfigurationError
from openllm.fleet import Fleet

if TYPE_CHECKING:
    from ssl import SSLContext
    from types import FrameType

    from openllm.bento.edge import OnStarted
    from openllm.config.download import DownloadOptions
    from openllm.server.grpc_server import GrpcServer

PACKAGES = {
    "hpack": "hpack",
    "grpc": "grpcio",
    "grpc_health": "grpcio-health-checking",
    "grpc_reflection": "grpcio-reflection",
}

logger = logging.getLogger("openllm")


def check_grpc(settings: ServerSettings) -> None:
    """Raise `ConfigurationError` if --grpc is given and a package that it needs is missing."""
    missing = [name for module, name in PACKAGES.items() if not importlib.util.find_spec(module)]
    if settings.grpc and missing:
        raise ConfigurationError(
            f"--grpc needs {', '.join(missing)}; install it with: pip install "
            "'open-llm-server[grpc]'",
            param="grpc",
        )


class GrpcProcess:
    """What `uvicorn.Server` is for HTTP: runs until it should exit."""

    def __init__(
        self,
        fleet: Fleet,
        settings: ServerSettings,
        tls: SSLContext | None,
        on_started: OnStarted,
        signals: list[int],
        on_hang_up: Callable[[], None],
    ) -> None:
        """Take what to serve; signals that end the server are added to `signals`.

        Args:
            on_started: Awaited once with what failed by model; cancelled when the server ends.
            on_hang_up: Called on SIGHUP, from the event loop.
        """
        self._fleet = fleet
        self._settings = settings
        self._tls = tls
        self._on_started = on_started
        self._signals = signals
        self._on_hang_up = on_hang_up
        self._ending = asyncio.Event()
        self._server: GrpcServer | None = None

    @property
    def should_exit(self) -> bool:
        """Whether the server is to end; may be set from the event loop."""
        return self._ending.is_set()

    @should_exit.setter
    def should_exit(self, ends: bool) -> None:
        (self._ending.set if ends else self._ending.clear)()

    def apply(self, settings: ServerSettings, _: DownloadOptions | None = None) -> None:
        """Serve by these settings from now on; raises `ConfigurationError` and changes nothing."""
        if self._server is not None:
            self._server.apply(settings)

    def handle_exit(self, sig: int, _: FrameType | None) -> None:
        """End; a second signal does not wait for those who are being served."""
        self._signals.append(sig)
        if self._ending.is_set() and self._server is not None:
            self._server.cancel()
        self._ending.set()

    def run(self, sockets: Sequence[socket.socket]) -> None:
        """Serve the connections of the one socket until it should exit."""
        # Runners are spawned, so gRPC's threads need no care when this process forks.
        os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
        # What the core logs holds bytes as clients sent them.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        [sock] = sockets
        asyncio.run(self._serve(sock))

    async def _serve(self, sock: socket.socket) -> None:
        from openllm.server.grpc_server import GrpcServer

        self._server = server = GrpcServer(self._fleet, self._settings)
        loop = asyncio.get_running_loop()
        for each in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(each, self.handle_exit, each, None)
        loop.add_signal_handler(signal.SIGHUP, self._on_hang_up)
        await server.start(sock, self._tls)
        tasks = [asyncio.create_task(each) for each in (self._start(), self._until_end(server))]
        await asyncio.wait(tasks[1:])
        await server.stop(self._settings.timeout_graceful_shutdown)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await self._fleet.close()

    async def _start(self) -> None:
        await self._on_started(await self._fleet.start())

    async def _until_end(self, server: GrpcServer) -> None:
        ends = [asyncio.create_task(each) for each in (self._ending.wait(), server.wait())]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if not self._ending.is_set():
            logger.error("the gRPC server ended by itself")
        ends[0].cancel()
        ends[1].cancel()
