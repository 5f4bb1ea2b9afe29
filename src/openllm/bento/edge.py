"""Makes the BentoML service that carries our app. Knows nothing of what the routes do."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from openllm.config.server import ServerSettings
from openllm.errors import OpenLLMError
from openllm.fleet import Fleet
from openllm.server.access_log import show_access
from openllm.server.app import build_app
from openllm.server.guard import Guard
from openllm.server.metrics_requests import RequestMeasures
from openllm.server.pulls import Pulls

if TYPE_CHECKING:
    import bentoml
    from starlette.routing import BaseRoute
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

BENTOML_VARIABLES = ("BENTOML_CONFIG", "BENTOML_CONFIG_OPTIONS", "BENTOML_CONFIG_OVERRIDES")
"""What configures BentoML's own servers and runners."""

OnStarted = Callable[[dict[str, OpenLLMError]], Awaitable[None]]


class Front:
    """Our app behind its guard, both made from settings that can be replaced while it serves."""

    def __init__(
        self, fleet: Fleet, settings: ServerSettings, download: DownloadOptions | None = None
    ) -> None:
        """As `apply`; raises what it raises."""
        self.fleet = fleet
        self._requests = RequestMeasures()
        self._pulls = Pulls()
        self.apply(settings, download)

    @property
    def routes(self) -> Sequence[BaseRoute]:
        return self._app.routes

    def apply(self, settings: ServerSettings, download: DownloadOptions | None = None) -> None:
        """Serve by these settings from now on; requests that are under way keep theirs.

        Args:
            download: How /pull fetches models; by the environment if None.

        Raises:
            ConfigurationError: Keys, hosts or origins are wrong; nothing was changed.
        """
        app = build_app(self.fleet, settings, download, self._requests, self._pulls)
        self._guard, self._app = Guard(app, settings, self._requests), app
        show_access(settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._guard(scope, receive, send)


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


def create_service(front: Front, on_started: OnStarted | None = None) -> bentoml.Service[Any]:
    """Return the service that serves `front`; its start loads the models in the background.

    Args:
        on_started: Awaited once with what failed by model, nothing when every model is ready;
            cancelled when the server ends.
    """
    os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
    import bentoml
    from starlette.applications import Starlette

    class OpenLLM:
        @bentoml.on_startup
        async def start_fleet(self) -> None:
            self._starting = asyncio.create_task(_start(front.fleet, on_started))

        @bentoml.on_shutdown
        async def close_fleet(self) -> None:
            self._starting.cancel()
            await asyncio.wait([self._starting])
            await front.fleet.close()

    class EdgeService(bentoml.Service[Any]):
        """A service whose whole ASGI app stands behind the guard, whoever serves it."""

        def to_asgi(self, is_main: bool = True) -> ASGIApp:
            return OwnRoutes(super().to_asgi(is_main), front)

    service: bentoml.Service[Any] = bentoml.service(service_class=EdgeService, **LEAN)(OpenLLM)
    # Only for `bentoml build`, which writes the routes of a mounted app into the bento.
    service.mount_asgi_app(Starlette(routes=front.routes), name="openllm")
    return service


def create_app(front: Front, on_started: OnStarted | None = None) -> ASGIApp:
    """Return the app of `create_service` for a server of ours, which BentoML's configuration is not
    for: a file of runners would be refused for a service, whatever is in it."""
    with _unset(BENTOML_VARIABLES):
        app: ASGIApp = create_service(front, on_started).to_asgi()
        return app


@contextmanager
def _unset(variables: Sequence[str]) -> Iterator[None]:
    kept = {name: os.environ.pop(name) for name in variables if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


async def _start(fleet: Fleet, on_started: OnStarted | None) -> None:
    failures = await fleet.start()
    if on_started is not None:
        await on_started(failures)
