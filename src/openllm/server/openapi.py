"""The API's own description: OpenAPI 3.1 at /openapi.json, and a page at /docs that shows it.

Made from the models that the handlers validate with. The page is a few static files, and asks no
other host for anything.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import orjson
from pydantic import BaseModel, RootModel
from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from openllm import __version__
from openllm.server import openapi_answers as answers
from openllm.server.native_schema import (
    ChatEvent,
    ChatReply,
    ChatRequest,
    CompleteReply,
    CompleteRequest,
    EmbedRequest,
)
from openllm.server.openai_schema import (
    ChatCompletionRequest,
    CompletionRequest,
    EmbeddingRequest,
)
from openllm.server.pull_api import PullEvent, PullRequest

_WEB = Path(__file__).parent / "web" / "docs"
_REF = "#/components/schemas/{model}"
_TURN = [{"role": "user", "content": "Hello! Who are you?"}]
_FILES = {
    "docs.js": "text/javascript; charset=utf-8",
    "docs.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
_PAGE_HEADERS = {
    "content-security-policy": "default-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}
_ABOUT = (
    "An OpenAI-compatible API and the native one. Requests are JSON and refuse unknown fields; "
    "every answer carries x-request-id."
)
_ABOUT_ERRORS = (
    "Every error has this body, whatever caused it. 400: the request is wrong, and param names the "
    "field. 401: no valid key. 403: this host or web page may not ask. 404: no such model or "
    "route. 413: too large. 429 and 503: try again after the seconds in retry-after. 504: the "
    "server's time for a request is over. A stream that fails after its beginning sends it as "
    "one last event."
)


class Vectors(RootModel[list[list[float]]]):
    """One vector of unit length for each text, in order."""


class Operation(NamedTuple):
    """One route: the models of its request, its answer and the events it streams.

    `text`: it answers in plain text.
    """

    method: str
    path: str
    about: str
    request: type[BaseModel] | None = None
    answer: type[BaseModel] | None = None
    event: type[BaseModel] | None = None
    example: Any = None
    keyless: bool = False
    text: bool = False


OPERATIONS = (
    Operation(
        "post",
        "/v1/chat/completions",
        "Reply to a conversation. With stream: true the reply comes as server-sent events, the "
        "last of them [DONE].",
        ChatCompletionRequest,
        answers.ChatCompletion,
        answers.ChatCompletionChunk,
        {"messages": _TURN, "max_tokens": 100},
    ),
    Operation(
        "post",
        "/v1/completions",
        "Continue a text. With stream: true it comes as server-sent events, the last of them "
        "[DONE].",
        CompletionRequest,
        answers.Completion,
        answers.Completion,
        {"prompt": "Hello, my name is", "max_tokens": 20},
    ),
    Operation(
        "post",
        "/v1/embeddings",
        "Turn texts into vectors whose dot product tells how alike they are.",
        EmbeddingRequest,
        answers.EmbeddingList,
        example={"input": ["Hello, how are you?", "soup is my favorite food"]},
    ),
    Operation("get", "/v1/models", "List the served models.", answer=answers.ModelList),
    Operation("get", "/v1/models/{model}", "Describe one served model.", answer=answers.Model),
    Operation(
        "post",
        "/chat",
        "Reply to a prompt or a conversation; the answer says which settings were in effect.",
        ChatRequest,
        ChatReply,
        example={"prompt": "Hello, how are you?"},
    ),
    Operation(
        "post",
        "/chat-sse",
        "The same as server-sent events: texts, then an event with the configuration. A failure "
        "is an event with an error.",
        ChatRequest,
        event=ChatEvent,
        example={"prompt": "Hello, how are you?"},
    ),
    Operation(
        "post",
        "/complete",
        "Continue a text, n times if asked.",
        CompleteRequest,
        CompleteReply,
        example={"prompt": "Hello, how are you? My name is ...", "max_tokens": 20},
    ),
    Operation(
        "post",
        "/embed",
        "Turn texts into vectors of unit length; the body may be a bare list of texts.",
        EmbedRequest,
        Vectors,
        example=["Hello, how are you?", "soup is my favorite food"],
    ),
    Operation(
        "post",
        "/pull",
        "Download a model into the store of a server that was started with --allow-pull. Events "
        "tell how far it is; the last one has the tag, or an error.",
        PullRequest,
        event=PullEvent,
        example={"model": "org/name"},
    ),
    Operation(
        "get",
        "/metrics",
        "What the server and its models do, for Prometheus: requests, tokens, times and states. "
        "OpenMetrics if the client asks for it.",
        text=True,
    ),
    Operation("get", "/livez", "Whether the process answers.", answer=answers.Alive, keyless=True),
    Operation(
        "get",
        "/readyz",
        "Whether every model is ready; 503 while one is not.",
        answer=answers.Ready,
        keyless=True,
    ),
    Operation("get", "/healthz", "The same as /livez.", answer=answers.Alive, keyless=True),
)


def docs_routes(*, keyed: bool) -> list[Route]:
    """Return the routes of the description; `keyed`: the server asks for a key."""

    @cache
    def document() -> bytes:
        return orjson.dumps(openapi_document(keyed=keyed))

    async def openapi_json(_: Request) -> Response:
        return Response(document(), media_type="application/json")

    async def page(_: Request) -> Response:
        return _file("index.html", "text/html; charset=utf-8")

    async def part(request: Request) -> Response:
        name = request.scope["path"].rpartition("/")[2]
        return _file(name, _FILES[name])

    return [
        Route("/openapi.json", openapi_json),
        Route("/docs", page),
        *(Route(f"/docs/{name}", part) for name in _FILES),
    ]


def openapi_document(*, keyed: bool) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document."""
    paths: dict[str, Any] = {}
    for operation in OPERATIONS:
        paths[operation.path] = {operation.method: _operation(operation)}
        if operation.path.startswith("/v1/"):
            pointer = quote(operation.path.replace("/", "~1"))
            paths["/openai" + operation.path] = {"$ref": f"#/paths/{pointer}"}
    keys: list[dict[str, list[str]]] = [{"bearer": []}, {"x-api-key": []}]
    return {
        "openapi": "3.1.0",
        "info": {"title": "OpenLLM-Server", "version": __version__, "description": _ABOUT},
        "paths": paths,
        "components": {
            "schemas": _schemas(),
            "responses": {"Error": _json(answers.ErrorAnswer, _ABOUT_ERRORS)},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
        "security": keys if keyed else [*keys, {}],
    }


def _operation(operation: Operation) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.path.strip("/").replace("/", "_").translate(_NO_BRACES),
        "summary": operation.about.partition(".")[0],
        "description": operation.about,
        "responses": {
            "200": {"description": "Success.", "content": _contents(operation)},
            "4XX": {"$ref": "#/components/responses/Error"},
            "5XX": {"$ref": "#/components/responses/Error"},
        },
    }
    if operation.request is not None:
        described["requestBody"] = {"required": True, "content": _request(operation)}
    if "{model}" in operation.path:
        name = {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}
        described["parameters"] = [name]
    if operation.keyless:
        described["security"] = []
    return described


def _request(operation: Operation) -> dict[str, Any]:
    schema: dict[str, Any] = _ref(operation.request)
    if operation.request is EmbedRequest:
        schema = {"anyOf": [schema, {"type": "array", "items": {"type": "string"}}]}
    return {"application/json": {"schema": schema, "example": operation.example}}


def _contents(operation: Operation) -> dict[str, Any]:
    contents: dict[str, Any] = {}
    if operation.answer is not None:
        contents["application/json"] = {"schema": _ref(operation.answer)}
    if operation.event is not None:
        contents["text/event-stream"] = {"schema": _ref(operation.event)}
    if operation.text:
        contents["text/plain"] = {"schema": {"type": "string"}}
    return contents


def _schemas() -> dict[str, Any]:
    asked = {each.request for each in OPERATIONS if each.request}
    answered = {model for each in OPERATIONS for model in (each.answer, each.event) if model}
    _, definitions = models_json_schema(
        [
            *((model, "validation") for model in sorted(asked, key=_name)),
            *((model, "serialization") for model in sorted(answered, key=_name)),
            (answers.ErrorAnswer, "serialization"),
        ],
        ref_template=_REF,
    )
    schemas: dict[str, Any] = definitions["$defs"]
    return schemas


def _json(model: type[BaseModel], description: str) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": _ref(model)}}}


def _ref(model: type[BaseModel] | None) -> dict[str, Any]:
    return {"$ref": _REF.format(model=_name(model))}


def _name(model: type[BaseModel] | None) -> str:
    return model.__name__ if model is not None else ""


_NO_BRACES = str.maketrans("", "", "{}")


def _file(name: str, media_type: str) -> Response:
    content = (_WEB / name).read_bytes()
    return Response(content, headers={**_PAGE_HEADERS, "content-type": media_type})
