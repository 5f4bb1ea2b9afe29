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

# BentoML's tracing makes a span of every streamed chunk, and its metrics and access log wrap every
# message.
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
    """Sends what our app serves straight to it, everything else to BentoML's own routes."""

    def __init__(self, app: ASGIApp, own: ASGIApp, segments: frozenset[str]) -> None:
        self._bento = app
        self._own = own
        self._segments = segments

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and _first_segment(scope["path"]) in self._segments:
            await self._own(scope, receive, send)
        else:
            await self._bento(scope, receive, send)


def create_service(
    fleet: Fleet, settings: ServerSettings, on_started: OnStarted | None = None
) -> bentoml.Service[Any]:
    """Return the service that serves `fleet`; its start loads the models in the background.

    Args:
        on_started: Called once with what failed by model, empty when every model is ready.
    """
    os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
    import bentoml
    from starlette.routing import Route

    class OpenLLM:
        @bentoml.on_startup
        async def start_fleet(self) -> None:
            self._starting = asyncio.create_task(_start(fleet, on_started))

        @bentoml.on_shutdown
        async def close_fleet(self) -> None:
            self._starting.cancel()
            await asyncio.wait([self._starting])
            await fleet.close()

        async def __is_ready__(self) -> bool:
            return fleet.ready

    app = build_app(fleet, settings)
    Guard(app, settings)  # A wrong setting fails here, not when BentoML builds the stack.
    routes = (route for route in app.routes if isinstance(route, Route))
    segments = frozenset(_first_segment(route.path) for route in routes)

    class EdgeService(bentoml.Service[Any]):
        """A service whose whole ASGI app stands behind the guard, whoever serves it."""

        def to_asgi(self, is_main: bool = True) -> ASGIApp:
            # The bare router: the app's error middleware would wrap every chunk, and has nothing to
            # do under a guard.
            return Guard(OwnRoutes(super().to_asgi(is_main), app.router, segments), settings)

    service: bentoml.Service[Any] = bentoml.service(service_class=EdgeService, **LEAN)(OpenLLM)
    service.mount_asgi_app(app, name="openllm")
    return service


def _first_segment(path: str) -> str:
    return path[1:].partition("/")[0]


async def _start(fleet: Fleet, on_started: OnStarted | None) -> None:
    failures = await fleet.start()
    if on_started is not None:
        on_started(failures)
