"""The server: every route on one screen, and the one shape of its errors."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from openllm.config.server import ServerSettings
from openllm.errors import OpenLLMError
from openllm.fleet import Fleet
from openllm.server.errors import ErrorReply, error_body, error_reply
from openllm.server.exchange import Endpoint, Handler
from openllm.server.health import live, ready
from openllm.server.native_api import native_routes
from openllm.server.openai_api import (
    chat_completions,
    completions,
    list_models,
    retrieve_model,
)
from openllm.server.openai_embeddings import embeddings
from openllm.server.openapi import docs_routes

OPENAI_PREFIXES = ("/v1", "/openai/v1")


def build_app(fleet: Fleet, settings: ServerSettings) -> Starlette:
    """Return the ASGI app that serves `fleet`. Whoever made the fleet starts and closes it."""

    def endpoint(handler: Handler) -> ASGIApp:
        return Endpoint(handler, fleet, settings)

    app = Starlette(
        routes=[
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
            *docs_routes(keyed=settings.keyed),
        ],
        exception_handlers={HTTPException: _no_route, OpenLLMError: _our_error},
    )
    # A redirect would repeat the caller's path in Location, which may name another host.
    app.router.redirect_slashes = False
    return app


async def _no_route(request: Request, error: Exception) -> Response:
    """Answer what no route answers: an unknown path or a method it does not have."""
    status = error.status_code if isinstance(error, HTTPException) else 404
    headers = dict(getattr(error, "headers", None) or {})
    what = f"{request.method} {request.scope['path']}"[:200]
    if status == 405:
        message = f"{what} is not allowed; use {headers.get('Allow', 'another method')}"
    else:
        message = f"there is no {what} here; see /docs for the routes"
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    return _response(ErrorReply(status, error_body(status, message), raw))


async def _our_error(_: Request, error: Exception) -> Response:
    return _response(error_reply(error))


def _response(reply: ErrorReply) -> Response:
    response = Response(reply.body, reply.status, media_type="application/json")
    response.raw_headers += reply.headers
    return response
