"""The server: every route on one screen. The guard puts what it refuses into our shape."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import RedirectResponse
from starlette.routing import Route, Router
from starlette.types import ASGIApp

from openllm.config.server import ServerSettings
from openllm.fleet import Fleet
from openllm.server.exchange import Endpoint, Handler
from openllm.server.health import live, ready
from openllm.server.metrics import metrics_route
from openllm.server.metrics_requests import RequestMeasures
from openllm.server.native_api import native_routes
from openllm.server.openai_api import (
    chat_completions,
    completions,
    list_models,
    retrieve_model,
)
from openllm.server.openai_embeddings import embeddings
from openllm.server.openapi import docs_routes
from openllm.server.pull_api import PullApi
from openllm.server.pulls import Pulls

if TYPE_CHECKING:
    from openllm.config.download import DownloadOptions

OPENAI_PREFIXES = ("/v1", "/openai/v1")


def build_app(
    fleet: Fleet,
    settings: ServerSettings,
    download: DownloadOptions | None = None,
    requests: RequestMeasures | None = None,
    pulls: Pulls | None = None,
) -> Router:
    """Return the ASGI app that serves `fleet`. Whoever made the fleet starts and closes it.

    Stands behind a `Guard`: it answers unknown paths and methods in plain text. `download` says how
    /pull fetches models, by the environment if it is None; `requests` are what that guard counts,
    for /metrics; `pulls` are the downloads for clients, which several apps may share.
    """
    requests = requests or RequestMeasures()
    pull_api = PullApi(settings, download, pulls or Pulls())

    def endpoint(handler: Handler) -> ASGIApp:
        return Endpoint(handler, fleet, settings)

    router = Router(
        routes=[
            # Relative, so that a proxy may serve us below a path of its own.
            Route("/", RedirectResponse("docs"), methods=["GET"]),
            Route("/docs/", RedirectResponse("../docs"), methods=["GET"]),
            Route("/livez", endpoint(live), methods=["GET"]),
            Route("/readyz", endpoint(ready), methods=["GET"]),
            Route("/healthz", endpoint(live), methods=["GET"]),
            *(
                Route(prefix + path, endpoint(handler), methods=[method])
                for prefix in OPENAI_PREFIXES
                for method, path, handler in (
                    ("GET", "/models", list_models),
                    ("GET", "/models/{model:path}", retrieve_model),
                    ("POST", "/chat/completions", chat_completions),
                    ("POST", "/completions", completions),
                    ("POST", "/embeddings", embeddings),
                )
            ),
            *native_routes(endpoint),
            Route("/pull", endpoint(pull_api.pull), methods=["POST"]),
            metrics_route(fleet, requests),
            *docs_routes(keyed=settings.keyed),
        ],
        # A redirect would repeat the caller's path in Location, which may name another host.
        redirect_slashes=False,
    )
    requests.know(router.routes)
    return router
