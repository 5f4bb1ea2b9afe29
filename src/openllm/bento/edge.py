"""Makes the BentoML service that carries our app. Knows nothing of what the routes do."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from openllm.config.server import ServerSettings
from openllm.errors import OpenLLMError
from openllm.fleet import Fleet
from openllm.server.app import build_app
from openllm.server.guard import Guard

if TYPE_CHECKING:
    import bentoml
    from starlette.types import ASGIApp, Receive, Scope, Send

    from openllm.config.download import DownloadOptions

# No request passes BentoML's stack (see `OwnRoutes`), so it need not build what would measure one.
LEAN: dict[str, Any] = {
    "name": "openllm",
    "workers": 1,
    "traffic": {"timeout": 3600},
    "tracing": {"excluded_urls": ".*"},
    "metrics": {"enabled": False},
    "logging": {"access": {"enabled": False}},
}

OnStarted = Callable[[dict[str, OpenLLMError]], None]


class OwnRoutes:
    """Gives every request to our app; BentoML's only starts and ends with the server.

    BentoML's own routes are reached by nobody: its page loads scripts from other hosts, and its
    stack would wrap every streamed chunk.
    """

    def __init__(self, bento: ASGIApp, own: ASGIApp) -> None:
        self._bento = bento
        self._own = own

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._bento if scope["type"] == "lifespan" else self._own
        await app(scope, receive, send)


def create_service(
    fleet: Fleet,
    settings: ServerSettings,
    on_started: OnStarted | None = None,
    download: DownloadOptions | None = None,
) -> bentoml.Service[Any]:
    """Return the service that serves `fleet`; its start loads the models in the background.

    Args:
        download: How /pull fetches models; by the environment if None.
        on_started: Called once with what failed by model, empty when every model is ready.
    """
    os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
    import bentoml
    from starlette.applications import Starlette

    class OpenLLM:
        @bentoml.on_startup
        async def start_fleet(self) -> None:
            self._starting = asyncio.create_task(_start(fleet, on_started))

        @bentoml.on_shutdown
        async def close_fleet(self) -> None:
            self._starting.cancel()
            await asyncio.wait([self._starting])
            await fleet.close()

    app = build_app(fleet, settings, download)
    Guard(app, settings)  # A wrong setting fails here, not when BentoML builds the stack.

    class EdgeService(bentoml.Service[Any]):
        """A service whose whole ASGI app stands behind the guard, whoever serves it."""

        def to_asgi(self, is_main: bool = True) -> ASGIApp:
            return Guard(OwnRoutes(super().to_asgi(is_main), app), settings)

    service: bentoml.Service[Any] = bentoml.service(service_class=EdgeService, **LEAN)(OpenLLM)
    # Only for `bentoml build`, which writes the routes of a mounted app into the bento.
    service.mount_asgi_app(Starlette(routes=app.routes), name="openllm")
    return service


async def _start(fleet: Fleet, on_started: OnStarted | None) -> None:
    failures = await fleet.start()
    if on_started is not None:
        on_started(failures)
