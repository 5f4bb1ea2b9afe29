"""The description of the API is what the API does, and its page needs nobody else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

import httpx2
import pytest
from pydantic import TypeAdapter
from starlette.routing import Route

from openllm.config.server import ServerSettings
from openllm.server import openapi_answers as answers
from openllm.server.app import build_app
from openllm.server.native_schema import ChatEvent, ChatReply, CompleteReply
from openllm.server.openapi import OPERATIONS, Operation, Vectors, openapi_document
from tests.api.conftest import Server, chat

pytestmark = pytest.mark.anyio

NOT_DESCRIBED = re.compile(r"/|/docs(/.*)?|/openapi\.json")


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return openapi_document(keyed=True)


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for name, value in node.items():
            if name == "$ref":
                yield value
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def resolve(document: dict[str, Any], reference: str) -> Any:
    node: Any = document
    for key in unquote(reference).removeprefix("#/").split("/"):
        node = node[key.replace("~1", "/").replace("~0", "~")]
    return node


async def test_every_route_is_described_and_no_other(
    server: Server, document: dict[str, Any]
) -> None:
    served = {
        (route.path.replace(":path", ""), method.lower())
        for route in build_app(server.fleet, ServerSettings()).routes
        if isinstance(route, Route) and not NOT_DESCRIBED.fullmatch(route.path)
        for method in (route.methods or set()) - {"HEAD"}
    }
    described = {
        (path, method)
        for path, item in document["paths"].items()
        for method in (resolve(document, item["$ref"]) if "$ref" in item else item)
    }
    assert described == served


def test_the_document_holds_together(document: dict[str, Any]) -> None:
    assert document["openapi"] == "3.1.0"
    assert set(document) >= {"info", "paths", "components", "security"}
    for reference in references(document):
        assert resolve(document, reference) is not None, reference
    operations = [
        operation
        for item in document["paths"].values()
        if "$ref" not in item
        for operation in item.values()
    ]
    ids = [operation["operationId"] for operation in operations]
    assert len(set(ids)) == len(ids)
    for operation in operations:
        assert operation["description"].endswith(".")
        assert set(operation["responses"]) == {"200", "4XX", "5XX"}
    assert json.loads(json.dumps(document, allow_nan=False)) == document


def test_every_field_of_the_native_api_has_a_meaning(document: dict[str, Any]) -> None:
    for name in ("ChatRequest", "CompleteRequest", "EmbedRequest"):
        schema = document["components"]["schemas"][name]
        assert schema["additionalProperties"] is False
        for field, described in schema["properties"].items():
            assert described.get("description"), (name, field)


def test_keys_are_asked_for_where_there_are_some(document: dict[str, Any]) -> None:
    assert {} not in document["security"]
    assert {} in openapi_document(keyed=False)["security"]
    open_paths = {path for path, item in document["paths"].items() if _keyless(item)}
    assert open_paths == {"/livez", "/readyz", "/healthz"}


def _keyless(item: dict[str, Any]) -> bool:
    return any(
        operation.get("security") == []
        for operation in item.values()
        if isinstance(operation, dict)
    )


# What /pull streams is held against its description in test_pull_api.
@pytest.mark.parametrize(
    "operation", [each for each in OPERATIONS if each.path != "/pull"], ids=lambda each: each.path
)
async def test_every_example_works_and_its_answer_is_as_described(
    http: httpx2.AsyncClient, operation: Operation
) -> None:
    path = operation.path.replace("{model}", "demo")
    body = {} if operation.example is None else {"json": operation.example}
    reply = await http.request(operation.method.upper(), path, **body)
    assert reply.status_code == 200, reply.text
    if operation.answer is not None:
        TypeAdapter(operation.answer).validate_json(reply.content, strict=True)
    elif operation.text:
        assert reply.headers["content-type"].startswith("text/plain")
    else:
        assert operation.event is ChatEvent
        for data in re.findall(r"^data: (.*)$", reply.text, re.MULTILINE):
            ChatEvent.model_validate_json(data, strict=True)


@pytest.mark.parametrize(
    ("path", "answer", "body"),
    [
        ("/v1/chat/completions", answers.ChatCompletion, chat(logprobs=True, top_logprobs=2, n=2)),
        ("/v1/completions", answers.Completion, {"prompt": "hi", "logprobs": 2, "n": 2}),
        ("/v1/embeddings", answers.EmbeddingList, {"input": ["a"], "encoding_format": "base64"}),
        ("/chat", ChatReply, {"prompt": "hi", "stop": ["x", "y"], "seed": 3}),
        ("/complete", CompleteReply, {"prompt": "hi", "n": 2, "stop": "x"}),
        ("/embed", Vectors, ["a", "b"]),
    ],
)
async def test_answers_with_every_field_are_as_described(
    http: httpx2.AsyncClient, path: str, answer: type, body: Any
) -> None:
    reply = await http.post(path, json=body)
    TypeAdapter(answer).validate_json(reply.content, strict=True)


@pytest.mark.parametrize("usage", [False, True])
@pytest.mark.parametrize(
    ("path", "event", "body"),
    [
        ("/v1/chat/completions", answers.ChatCompletionChunk, chat(logprobs=True, n=2)),
        ("/v1/completions", answers.Completion, {"prompt": "hi", "logprobs": 1}),
    ],
)
async def test_events_are_as_described(
    http: httpx2.AsyncClient, path: str, event: type, body: dict[str, Any], usage: bool
) -> None:
    options = {"stream_options": {"include_usage": True}} if usage else {}
    reply = await http.post(path, json={**body, "stream": True, **options})
    *data, done = re.findall(r"^data: (.*)$", reply.text, re.MULTILINE)
    assert done == "[DONE]"
    for each in data:
        TypeAdapter(event).validate_json(each, strict=True)


async def test_errors_are_as_described(http: httpx2.AsyncClient) -> None:
    for path in ("/none", "/chat"):
        reply = await http.get(path)
        answers.ErrorAnswer.model_validate_json(reply.content, strict=True)


async def test_the_document_is_served(http: httpx2.AsyncClient) -> None:
    reply = await http.get("/openapi.json")
    assert reply.headers["content-type"] == "application/json"
    assert reply.json() == openapi_document(keyed=False)


async def test_the_page_loads_only_what_this_server_has(http: httpx2.AsyncClient) -> None:
    page = await http.get("/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'self';")
    assert "unsafe" not in policy
    links = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert links
    types = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
    for link in links:
        part = await http.get(f"/{link}")
        assert part.status_code == 200, link
        if link.startswith("docs/"):
            kind = types[link.rpartition(".")[2]]
            assert part.headers["content-type"].startswith(kind)
    assert not re.search(r"<script>|<style>|\son\w+=|style=", page.text)


async def test_the_page_asks_no_other_host(http: httpx2.AsyncClient) -> None:
    for path in ("/docs", "/docs/docs.js", "/docs/docs.css", "/docs/icon.svg"):
        text = (await http.get(path)).text
        addresses = set(re.findall(r"https?://[^\s\"'`)]+", text))
        assert addresses <= {"http://www.w3.org/2000/svg"}, path
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text)
