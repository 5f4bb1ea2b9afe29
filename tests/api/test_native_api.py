"""The native API over HTTP: document S0's answers, ranges, streams and refusals."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import httpx2
import pytest
from starlette.routing import Route

from openllm.config.model import RequestDefaults
from openllm.config.server import ServerSettings
from openllm.errors import EngineCrashedError, OverloadedError
from openllm.server.app import build_app
from openllm.types import CompletionChunk, GenerateRequest, Message, SamplingParams, Usage
from tests.api.conftest import TEXT, ScriptedFleet, Server, StubFleet, running, scripted_engine
from tests.asgi import ask
from tests.waiting import until

pytestmark = pytest.mark.anyio

END = CompletionChunk(0, "", finish_reason="stop", usage=Usage(1, 1))
SAMPLING = {"temperature": 0.5, "top_k": 3, "top_p": 0.15, "stop_sequence": "--"}


class RecordingFleet(StubFleet):
    """Answers with the chunks it was made with, and keeps the requests it got."""

    def __init__(self, *chunks: CompletionChunk, defaults: RequestDefaults | None = None) -> None:
        super().__init__(self._chunks)
        self.chunks = chunks or (CompletionChunk(0, "reply"), END)
        self.requests: list[GenerateRequest] = []
        self.set = defaults or RequestDefaults()

    async def _chunks(self) -> AsyncIterator[CompletionChunk]:
        for chunk in self.chunks:
            yield chunk

    def defaults(self, _: str) -> RequestDefaults:
        return self.set

    async def generate(
        self, name: str, request: GenerateRequest
    ) -> AsyncGenerator[CompletionChunk, None]:
        self.requests.append(request)
        async for chunk in super().generate(name, request):
            yield chunk


async def post(fleet: Any, path: str, body: Any) -> Any:
    """Ask in memory; return the parsed answer."""
    json_body = (b"content-type", b"application/json")
    answer = await ask(
        build_app(fleet, ServerSettings()),
        path,
        json_body,
        method="POST",
        body=json.dumps(body).encode(),
    )
    assert answer.status == 200, answer.body
    return json.loads(answer.body)


async def refused(http: httpx2.AsyncClient, path: str, body: Any) -> dict[str, Any]:
    reply = await http.post(path, json=body)
    assert reply.status_code == 400, reply.text
    error: dict[str, Any] = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


def events(text: str) -> list[dict[str, Any]]:
    assert text.endswith("\n\n")
    return [
        json.loads(line.removeprefix("data: "))
        for line in text.split("\n")
        if line and not line.startswith(":")
    ]


# --- chat ---------------------------------------------------------------------------------------


@pytest.mark.spec("S0-40", "S0-41")
async def test_chat_answers_as_the_document_has_it(http: httpx2.AsyncClient) -> None:
    reply = await http.post("/chat", json={"prompt": "Hello, how are you?", **SAMPLING})
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "application/json"
    body = reply.json()
    assert set(body) == {"message", "configuration"}
    assert body["message"] == TEXT
    assert {"prompt": "Hello, how are you?", **SAMPLING}.items() <= body["configuration"].items()


@pytest.mark.spec("S0-41")
async def test_what_is_left_out_comes_from_the_model_then_is_neutral() -> None:
    neutral = (await post(RecordingFleet(), "/chat", {"prompt": "hi"}))["configuration"]
    assert neutral == {
        "model": "stub",
        "prompt": "hi",
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "stop_sequence": None,
        "frequency_penalty": 0.0,
        "presence_penalty": 0.0,
        "max_tokens": None,
        "seed": None,
        "n": 1,
    }
    defaults = RequestDefaults(
        temperature=0.0, top_k=5, top_p=0.9, stop_sequence=("a", "b"), max_tokens=7, seed=3,
        frequency_penalty=0.25, presence_penalty=0.5,
    )  # fmt: skip
    fleet = RecordingFleet(defaults=defaults)
    body = {"prompt": "hi", "top_p": 0.5, "seed": 0, "stop": ["c"]}
    configuration = (await post(fleet, "/chat", body))["configuration"]
    assert configuration == {
        **neutral,
        "temperature": 0.0,
        "top_k": 5,
        "top_p": 0.5,
        "stop_sequence": "c",
        "frequency_penalty": 0.25,
        "presence_penalty": 0.5,
        "max_tokens": 7,
        "seed": 0,
    }
    [request] = fleet.requests
    assert request.params == SamplingParams(
        max_tokens=7, temperature=0.0, top_k=5, top_p=0.5, seed=0, stop=("c",),
        frequency_penalty=0.25, presence_penalty=0.5,
    )  # fmt: skip
    await post(fleet, "/chat", {"prompt": "hi"})
    assert fleet.requests[1].params.stop == ("a", "b")


async def test_no_probability_mass_means_the_likeliest_token() -> None:
    fleet = RecordingFleet()
    answer = await post(fleet, "/chat", {"prompt": "hi", "top_p": 0, "top_k": 9})
    assert answer["configuration"]["top_p"] == 0
    assert (fleet.requests[0].params.top_k, fleet.requests[0].params.top_p) == (1, 1.0)


async def test_a_prompt_is_a_turn_and_messages_are_turns() -> None:
    fleet = RecordingFleet()
    await post(fleet, "/chat", {"prompt": "hi"})
    turns = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": "c"},
        {"role": "user", "content": "d"},
    ]
    answer = await post(fleet, "/chat", {"messages": turns})
    assert answer["configuration"]["prompt"] is None
    single, several = fleet.requests
    assert single.messages == (Message("user", "hi"),)
    assert several.messages == (
        Message("system", "Be brief."),
        Message("user", "a\nb"),
        Message("assistant", "c"),
        Message("user", "d"),
    )
    assert single.request_id != several.request_id


async def test_the_prompt_is_echoed_only_when_asked_for() -> None:
    fleet = RecordingFleet()
    for echo, expected in ((None, "reply"), (False, "reply"), (True, "hi reply")):
        answer = await post(fleet, "/chat", {"prompt": "hi", "echo": echo})
        assert answer["message"] == expected
    assert (await post(fleet, "/chat", {"prompt": "hi\n", "echo": True}))["message"] == "hi\nreply"


async def test_a_model_is_chosen_by_name(http: httpx2.AsyncClient) -> None:
    for model, served in (("slow", "slow"), (None, "demo"), ("demo", "demo")):
        reply = await http.post("/chat", json={"prompt": "hi", "model": model})
        assert reply.json()["configuration"]["model"] == served
    reply = await http.post("/chat", json={"prompt": "hi", "model": "huge"})
    assert reply.status_code == 404
    assert reply.json()["error"]["code"] == "model_not_found"


# --- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/chat", "/chat-sse", "/complete"])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", 1.01),
        ("temperature", "0.5"),
        ("temperature", True),
        ("top_k", -1),
        ("top_k", 2.5),
        ("top_k", 2**31),
        ("top_p", 1.5),
        ("top_p", -1),
        ("frequency_penalty", 1.5),
        ("frequency_penalty", -0.5),
        ("presence_penalty", 1.5),
        ("presence_penalty", -2),
        ("max_tokens", 0),
        ("max_tokens", 2**31),
        ("seed", -1),
        ("seed", 2**63),
        ("stop", ""),
        ("stop_sequence", [""]),
        ("stop", ["x"] * 17),
        ("stop_sequence", "x" * 257),
        ("stop", 5),
        ("echo", 1),
        ("model", "x" * 257),
        ("prompt", ""),
        ("prompt", ["a"]),
        ("prompt", 5),
    ],
)
async def test_values_out_of_range_are_named(
    http: httpx2.AsyncClient, path: str, field: str, value: Any
) -> None:
    error = await refused(http, path, {"prompt": "hi", field: value})
    assert (error["param"] or "").startswith(field)
    assert field in error["message"]


async def test_limits_hold_at_their_edge(http: httpx2.AsyncClient) -> None:
    good = {"prompt": "hi", "stop": ["x" * 256] * 16, "n": 16, "top_k": 2**31 - 1, "max_tokens": 2}
    assert (await http.post("/complete", json=good)).status_code == 200
    assert (await refused(http, "/complete", {**good, "n": 17}))["param"] == "n"
    assert (await refused(http, "/complete", {**good, "n": 0}))["param"] == "n"
    turn = {"role": "user", "content": "hi"}
    error = await refused(http, "/chat", {"messages": [turn] * 4097})
    assert error["param"] == "messages"


@pytest.mark.parametrize(
    ("path", "field", "hint"),
    [
        ("/chat", "temprature", "did you mean temperature?"),
        ("/chat", "stop_sequences", "did you mean stop_sequence?"),
        ("/chat-sse", "top-k", "did you mean top_k?"),
        ("/chat", "n", "not a known field"),
        ("/complete", "messages", "not a known field"),
        ("/complete", "frquency_penalty", "did you mean frequency_penalty?"),
        ("/embed", "inputs", "did you mean input?"),
        ("/chat", "stream", "not a known field"),
    ],
)
async def test_unknown_fields_are_named(
    http: httpx2.AsyncClient, path: str, field: str, hint: str
) -> None:
    body = {"input": ["a"]} if path == "/embed" else {"prompt": "hi"}
    error = await refused(http, path, {**body, field: 1})
    assert error["param"] == field
    assert error["code"] == "unknown_parameter"
    assert hint in error["message"]


async def test_stop_has_two_names_that_must_agree(http: httpx2.AsyncClient) -> None:
    for stop, sequence in (("three", "three"), (["three"], "three"), ("three", ["three"])):
        body = {"prompt": "hi", "stop": stop, "stop_sequence": sequence}
        reply = await http.post("/chat", json=body)
        assert reply.json()["message"] == "one two "
        assert reply.json()["configuration"]["stop_sequence"] == "three"
    error = await refused(http, "/chat", {"prompt": "hi", "stop": "a", "stop_sequence": "b"})
    assert error["param"] == "stop_sequence"
    assert "differs from stop" in error["message"]


@pytest.mark.parametrize("path", ["/chat", "/chat-sse"])
async def test_there_is_one_of_prompt_and_messages(http: httpx2.AsyncClient, path: str) -> None:
    turns = [{"role": "user", "content": "hi"}]
    assert (await refused(http, path, {}))["code"] == "missing_required_parameter"
    assert (await refused(http, path, {"prompt": None}))["param"] == "prompt"
    assert (await refused(http, path, {"messages": []}))["param"] == "messages"
    error = await refused(http, path, {"prompt": "hi", "messages": turns})
    assert error["param"] == "messages"
    assert (await refused(http, path, {"messages": turns, "echo": True}))["param"] == "echo"
    assert (await refused(http, "/complete", {}))["param"] == "prompt"


@pytest.mark.parametrize("path", ["/chat", "/chat-sse", "/complete"])
async def test_a_prompt_too_long_is_refused(http: httpx2.AsyncClient, path: str) -> None:
    error = await refused(http, path, {"prompt": "word " * 1000})
    assert error["code"] == "context_length_exceeded"
    assert error["param"] == "prompt"


async def test_messages_too_long_are_blamed_as_messages(http: httpx2.AsyncClient) -> None:
    turns = [{"role": "user", "content": "word " * 1000}]
    assert (await refused(http, "/chat", {"messages": turns}))["param"] == "messages"


# --- complete -----------------------------------------------------------------------------------


@pytest.mark.spec("S0-42")
async def test_complete_answers_as_the_document_has_it(http: httpx2.AsyncClient) -> None:
    prompt = "Hello, how are you? My name is ..."
    reply = await http.post("/complete", json={"prompt": prompt, **SAMPLING})
    body = reply.json()
    assert set(body) == {"choices", "configuration"}
    assert body["choices"] == [TEXT]
    assert {"prompt": prompt, **SAMPLING}.items() <= body["configuration"].items()


async def test_complete_makes_n_choices_of_the_plain_prompt() -> None:
    chunks = [
        CompletionChunk(1, "b"),
        CompletionChunk(0, "a"),
        *(CompletionChunk(i, "", finish_reason="stop", usage=Usage(1, 1)) for i in (2, 0, 1)),
    ]
    fleet = RecordingFleet(*chunks)
    answer = await post(fleet, "/complete", {"prompt": "hi", "n": 3})
    assert answer["choices"] == ["a", "b", ""]
    assert answer["configuration"]["n"] == 3
    assert fleet.requests[0].params.n == 3
    assert (fleet.requests[0].prompt, fleet.requests[0].messages) == ("hi", ())
    answer = await post(fleet, "/complete", {"prompt": "hi", "n": 3, "echo": True})
    assert answer["choices"] == ["hia", "hib", "hi"]


# --- embed --------------------------------------------------------------------------------------


@pytest.mark.spec("S0-43")
async def test_embed_gives_one_vector_per_text_in_order(http: httpx2.AsyncClient) -> None:
    texts = ["Hello, how are you?", "soup is my favorite food", "Hello, how are you?"]
    vectors = (await http.post("/embed", json=texts)).json()
    assert len(vectors) == 3
    assert len({len(vector) for vector in vectors}) == 1
    assert all(isinstance(value, float) for value in vectors[0])
    assert vectors[0] == vectors[2] != vectors[1]
    assert (await http.post("/embed", json={"input": texts})).json() == vectors
    assert (await http.post("/embed", json={"input": texts[1]})).json() == [vectors[1]]
    padded = b" \n" + json.dumps(texts).encode()
    reply = await http.post("/embed", content=padded, headers={"content-type": "application/json"})
    assert reply.json() == vectors


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ([], "input"),
        ({"input": []}, "input"),
        ({"input": ""}, "input[0]"),
        (["a", ""], "input[1]"),
        (["a", 1], "input[1]"),
        ([["a"]], "input[0]"),
        ({"input": None}, "input"),
        ({}, "input"),
        ({"input": ["a"], "model": "mute"}, "model"),
        (["word " * 1000], "input"),
    ],
)
async def test_embed_refuses(http: httpx2.AsyncClient, body: Any, param: str) -> None:
    error = await refused(http, "/embed", body)
    assert error["param"] is not None
    assert error["param"].startswith(param)


async def test_many_vectors_are_encoded_all_the_same(http: httpx2.AsyncClient) -> None:
    texts = [f"text {index}" for index in range(600)]
    vectors = (await http.post("/embed", json=texts)).json()
    assert len(vectors) == 600
    assert vectors[7] == (await http.post("/embed", json=["text 7"])).json()[0]


# --- streams ------------------------------------------------------------------------------------


@pytest.mark.spec("S0-46")
@pytest.mark.parametrize("prompt", ["hi", "long", "odd"])
@pytest.mark.parametrize("echo", [False, True])
async def test_the_streamed_texts_join_to_the_chat(
    http: httpx2.AsyncClient, prompt: str, echo: bool
) -> None:
    body = {"prompt": prompt, "temperature": 0, "echo": echo}
    whole = (await http.post("/chat", json=body)).json()
    reply = await http.post("/chat-sse", json=body)
    assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert reply.headers["x-accel-buffering"] == "no"
    *texts, last = events(reply.text)
    assert all(set(event) == {"text"} for event in texts)
    assert len(texts) > 1
    assert "".join(event["text"] for event in texts) == whole["message"]
    assert last == {"configuration": whole["configuration"], "finish_reason": "stop"}


async def test_an_empty_reply_streams_too() -> None:
    fleet = RecordingFleet(END)
    answer = await ask(
        build_app(fleet, ServerSettings()),
        "/chat-sse",
        (b"content-type", b"application/json"),
        method="POST",
        body=b'{"prompt": "hi"}',
    )
    [last] = events(answer.body.decode())
    assert last["finish_reason"] == "stop"


async def test_a_failure_before_the_first_text_has_a_status() -> None:
    async def full() -> AsyncIterator[CompletionChunk]:
        raise OverloadedError("the queue is full", retry_after=2)
        yield END

    for path in ("/chat", "/chat-sse", "/complete"):
        answer = await ask(
            build_app(StubFleet(full), ServerSettings()),  # type: ignore[arg-type]
            path,
            (b"content-type", b"application/json"),
            method="POST",
            body=b'{"prompt": "hi"}',
        )
        assert answer.status == 429
        assert answer.error["code"] == "overloaded"
        assert answer.header(b"retry-after") == b"2"


async def test_a_failure_in_the_middle_is_the_last_event() -> None:
    async def crashes() -> AsyncIterator[CompletionChunk]:
        yield CompletionChunk(0, "one")
        raise EngineCrashedError("its process died")

    async def ends_early() -> AsyncIterator[CompletionChunk]:
        yield CompletionChunk(0, "one")

    for produce, code in ((crashes, "engine_crashed"), (ends_early, "internal_error")):
        answer = await ask(
            build_app(StubFleet(produce), ServerSettings()),  # type: ignore[arg-type]
            "/chat-sse",
            (b"content-type", b"application/json"),
            method="POST",
            body=b'{"prompt": "hi"}',
        )
        first, last = events(answer.body.decode())
        assert first == {"text": "one"}
        assert set(last) == {"error"}
        assert last["error"]["code"] == code


@pytest.mark.reliability("F-01")
@pytest.mark.parametrize("path", ["/chat", "/chat-sse", "/complete"])
async def test_a_client_that_leaves_stops_the_work(path: str) -> None:
    async def endless() -> AsyncIterator[CompletionChunk]:
        while True:
            yield CompletionChunk(0, "word ")
            await asyncio.sleep(0.01)

    fleet = StubFleet(endless)
    with running(fleet) as server:
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        body = b'{"prompt": "hi"}'
        writer.write(
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        await until(lambda: fleet.open == 1)
        writer.transport.abort()
        await until(lambda: fleet.open == 0)


# --- the table of routes ------------------------------------------------------------------------


@pytest.mark.spec("S0-45")
async def test_these_are_all_the_generation_routes(server: Server) -> None:
    routes = build_app(server.fleet, ServerSettings()).routes
    native = {
        route.path
        for route in routes
        if isinstance(route, Route) and "POST" in (route.methods or ()) and "/v1/" not in route.path
    } - {"/pull"}  # It downloads; it generates nothing.
    assert native == {"/chat", "/chat-sse", "/complete", "/embed"}
    async with server.http() as http:
        for path in native:
            reply = await http.get(path)
            assert reply.status_code == 405
            assert reply.headers["allow"] == "POST"


async def test_temperature_0_repeats(tmp_path: Any) -> None:
    fleet = ScriptedFleet({"demo": scripted_engine(tmp_path, "demo")}, RequestDefaults())
    with running(fleet) as server:
        async with server.http() as http:
            body = {"prompt": "sample", "temperature": 0}
            replies = [(await http.post("/chat", json=body)).json() for _ in range(3)]
    assert replies[0] == replies[1] == replies[2]
