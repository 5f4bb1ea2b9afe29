"""The gRPC API beside the HTTP API: same requests, same answers, same errors."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator
from typing import Any

import grpc
import httpx2
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from openllm.config.model import RequestDefaults
from openllm.config.server import ServerSettings
from openllm.errors import EngineUnavailableError, OverloadedError
from openllm.server.proto import openllm_pb2 as pb
from tests.api.conftest import TEXT, ScriptedFleet, Server, StubFleet, running, scripted_engine
from tests.api.grpc_peer import METHODS, Peer, chat, connected, running_grpc, status


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Peer]]:
    """The same models by HTTP and by gRPC."""
    folder = tmp_path_factory.mktemp("scripts")

    def fleet() -> ScriptedFleet:
        names = ("demo", "mute")
        return ScriptedFleet(
            {name: scripted_engine(folder, name) for name in names}, RequestDefaults()
        )

    with running(fleet()) as http, running_grpc(fleet()) as peer:
        yield http, peer


@pytest.fixture
def peer(both: tuple[Server, Peer]) -> Peer:
    return both[1]


@pytest.fixture
def http(both: tuple[Server, Peer]) -> Server:
    return both[0]


def post(http: Server, path: str, body: dict[str, Any]) -> Any:
    return httpx2.post(http.url + path, json=body, timeout=30).json()


def failing(peer: Peer, name: str, request: Any) -> tuple[str, str, dict[str, str]]:
    with pytest.raises(grpc.RpcError) as raised:
        peer.call(name, request)
    return status(raised.value)


CHATS: list[dict[str, Any]] = [
    {},
    {"max_tokens": 3},
    {"max_completion_tokens": 2, "max_tokens": 3},
    {"stop": ["four"], "n": 2},
    {"logprobs": True, "top_logprobs": 2, "seed": 7},
    {"temperature": 0.5, "top_p": 0.9, "top_k": 5, "min_p": 0.1, "seed": -3},
    {"presence_penalty": 0.5, "frequency_penalty": 0.5, "repetition_penalty": 1.1},
    {"logit_bias": {3: -100.0}, "stop_token_ids": [1], "ignore_eos": False},
    {"response_format": {"type": "text"}},
]


@pytest.mark.spec("S0-35")
@pytest.mark.parametrize("fields", CHATS, ids=lambda each: ",".join(each) or "plain")
@pytest.mark.parametrize("text", ["hi", "odd", "sample"])
def test_a_chat_is_answered_as_by_http(
    both: tuple[Server, Peer], fields: dict[str, Any], text: str
) -> None:
    http, peer = both
    fields = {"seed": 1, **fields}
    body = {"model": "demo", "messages": [{"role": "user", "content": text}], **fields}
    if "logit_bias" in fields:
        body["logit_bias"] = {str(key): value for key, value in fields["logit_bias"].items()}
    expected = post(http, "/v1/chat/completions", body)
    answer = peer.call("ChatCompletion", chat(text, **fields))
    assert answer.model == expected["model"]
    assert answer.system_fingerprint == expected["system_fingerprint"]
    assert answer.id.startswith("demo:")
    assert answer.usage.prompt_tokens == expected["usage"]["prompt_tokens"]
    assert answer.usage.completion_tokens == expected["usage"]["completion_tokens"]
    assert answer.usage.total_tokens == expected["usage"]["total_tokens"]
    assert len(answer.choices) == len(expected["choices"])
    for mine, theirs in zip(answer.choices, expected["choices"], strict=True):
        assert mine.index == theirs["index"]
        assert mine.message.role == "assistant"
        assert mine.message.content == theirs["message"]["content"]
        assert mine.finish_reason == theirs["finish_reason"]
        assert logprobs(mine) == (theirs["logprobs"] or {"content": []})["content"]


def logprobs(choice: Any) -> list[dict[str, Any]]:
    """Return a choice's log probabilities as HTTP has them."""
    return [
        {**token(each), "top_logprobs": [token(top) for top in each.top_logprobs]}
        for each in choice.logprobs
    ]


def token(each: Any) -> dict[str, Any]:
    return {"token": each.token, "logprob": each.logprob, "bytes": list(each.bytes)}


@pytest.mark.parametrize("n", [1, 3])
def test_a_stream_adds_up_to_the_whole_answer(peer: Peer, n: int) -> None:
    request = chat("sample", seed=5, n=n, logprobs=True)
    whole = peer.call("ChatCompletion", request)
    parts = list(peer.stream("ChatCompletionStream", request))
    assert {(part.id, part.model, part.system_fingerprint) for part in parts} == {
        (parts[0].id, "demo", "fp_test")
    }
    for choice in whole.choices:
        mine = [each for part in parts for each in part.choices if each.index == choice.index]
        assert "".join(each.delta.content for each in mine) == choice.message.content
        assert [each.delta.role for each in mine] == ["assistant"] + [""] * (len(mine) - 1)
        assert [each.HasField("finish_reason") for each in mine] == [False] * (len(mine) - 1) + [
            True
        ]
        assert mine[-1].finish_reason == choice.finish_reason
        assert [lp for each in mine for lp in each.logprobs] == list(choice.logprobs)
    assert [part.HasField("usage") for part in parts] == [False] * (len(parts) - 1) + [True]
    assert parts[-1].usage.total_tokens == whole.usage.total_tokens


@pytest.mark.spec("S0-35")
@pytest.mark.parametrize("echo", [False, True])
@pytest.mark.parametrize("prompts", [["hi"], ["hi", "odd"], [[5, 6, 7]], [[5, 6], [7]]])
def test_completions_are_those_of_http(
    both: tuple[Server, Peer], prompts: list[Any], echo: bool
) -> None:
    http, peer = both
    body = {"model": "demo", "prompt": prompts, "n": 2, "echo": echo}
    expected = post(http, "/v1/completions", body)
    if isinstance(prompts[0], str):
        request = pb.CompletionRequest(model="demo", prompt=prompts, n=2, echo=echo)
    else:
        ids = [pb.TokenIds(token_ids=each) for each in prompts]
        request = pb.CompletionRequest(model="demo", prompt_token_ids=ids, n=2, echo=echo)
    answer = peer.call("Completion", request)
    assert [(each.index, each.text, each.finish_reason) for each in answer.choices] == [
        (each["index"], each["text"], each["finish_reason"]) for each in expected["choices"]
    ]
    assert answer.usage.completion_tokens == expected["usage"]["completion_tokens"]
    parts = list(peer.stream("CompletionStream", request))
    texts = [""] * len(answer.choices)
    for each in (choice for part in parts for choice in part.choices):
        texts[each.index] += each.text
    assert texts == [each.text for each in answer.choices]
    assert parts[-1].usage.total_tokens == answer.usage.total_tokens


@pytest.mark.spec("S0-35")
def test_embeddings_are_those_of_http(both: tuple[Server, Peer]) -> None:
    http, peer = both
    body = {"model": "demo", "input": ["one", "two three"], "dimensions": 4}
    expected = post(http, "/v1/embeddings", body)
    request = pb.EmbeddingsRequest(model="demo", input=["one", "two three"], dimensions=4)
    answer = peer.call("Embeddings", request)
    for mine, theirs in zip(answer.data, expected["data"], strict=True):
        assert mine.index == theirs["index"]
        assert array("f", mine.embedding) == array("f", theirs["embedding"])
    assert answer.usage.prompt_tokens == expected["usage"]["prompt_tokens"]


@pytest.mark.spec("S0-35")
def test_models_are_listed_and_named(peer: Peer) -> None:
    models = peer.call("ListModels", pb.ListModelsRequest()).models
    assert [each.id for each in models] == ["demo", "mute"]
    assert {each.state for each in models} == {"ready"}
    assert peer.call("GetModel", pb.GetModelRequest(model="mute")).context_length == 512


def test_text_to_tokens_and_back(peer: Peer) -> None:
    ids = peer.call("Tokenize", pb.TokenizeRequest(text=TEXT)).token_ids
    assert len(ids) > 1
    answer = peer.call("Detokenize", pb.DetokenizeRequest(model="demo", token_ids=ids))
    assert answer.text == TEXT


WRONG: list[tuple[str, Any, str, dict[str, Any]]] = [
    ("ChatCompletion", chat("hi", temperature=3.0), "/v1/chat/completions", {"temperature": 3.0}),
    ("ChatCompletion", chat("hi", n=99), "/v1/chat/completions", {"n": 99}),
    ("ChatCompletion", chat("hi", top_logprobs=1), "/v1/chat/completions", {"top_logprobs": 1}),
    ("ChatCompletion", chat("hi", model="demp"), "/v1/chat/completions", {"model": "demp"}),
    ("ChatCompletion", chat("hi" * 999), "/v1/chat/completions", {"content": "hi" * 999}),
    ("ChatCompletion", chat("broken"), "/v1/chat/completions", {"content": "broken"}),
    ("ChatCompletionStream", chat("hi", max_tokens=0), "/v1/chat/completions", {"max_tokens": 0}),
]
CODES = {400: "INVALID_ARGUMENT", 404: "NOT_FOUND", 500: "INTERNAL", 503: "UNAVAILABLE"}


@pytest.mark.parametrize(("name", "request_", "path", "fields"), WRONG, ids=str)
def test_an_error_says_what_it_says_by_http(
    both: tuple[Server, Peer], name: str, request_: Any, path: str, fields: dict[str, Any]
) -> None:
    http, peer = both
    turn = {"role": "user", "content": fields.pop("content", "hi")}
    reply = httpx2.post(http.url + path, json={"model": "demo", "messages": [turn], **fields})
    error = reply.json()["error"]
    with pytest.raises(grpc.RpcError) as raised:
        list(peer.stream(name, request_)) if name.endswith("Stream") else peer.call(name, request_)
    code, message, metadata = status(raised.value)
    assert code == CODES[reply.status_code]
    assert message == error["message"]
    assert metadata.get("error-param") == error["param"]
    assert metadata["error-code"] == error["code"]
    assert metadata["x-request-id"].startswith("req_")


def test_what_only_grpc_can_get_wrong_is_named(peer: Peer) -> None:
    turn = pb.ChatMessage(role="user", content="hi")
    both = pb.CompletionRequest(prompt=["a"], prompt_token_ids=[pb.TokenIds(token_ids=[1])])
    schema = pb.JsonSchema(name="x", schema="{no")
    form = pb.ResponseFormat(type="json_schema", json_schema=schema)
    wrong = pb.ChatCompletionRequest(messages=[turn], response_format=form)
    for name, request, says in (
        ("Completion", both, "prompt cannot be combined with prompt_token_ids"),
        ("Completion", pb.CompletionRequest(), "prompt is required"),
        ("ChatCompletion", pb.ChatCompletionRequest(), "messages is required"),
        ("ChatCompletion", wrong, "response_format.json_schema.schema is not JSON"),
        ("ChatCompletion", chat("a\0b"), "content holds the character NUL"),
        ("GetModel", pb.GetModelRequest(), "model is required"),
        ("Tokenize", pb.TokenizeRequest(), "text is required"),
    ):
        code, message, _ = failing(peer, name, request)
        assert code == "INVALID_ARGUMENT"
        assert says in message


CHAT = "/openllm.v1.OpenLLM/ChatCompletion"


@pytest.mark.reliability("F-17")
@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"\xff\xff\xff", "is not a message openllm.v1.ChatCompletionRequest"),
        (b"\x0a\x05ab", "is not a message openllm.v1.ChatCompletionRequest"),
        (b"\x0a\x01\xff", "with strings in UTF-8"),
        (b"\x0a\x03\xed\xa0\x80", "with strings in UTF-8"),
        (b"\x0b\x0c", "proto3 has no groups"),
        (b"\xf8\x06\x01", "field number 111 of the openllm.v1.ChatCompletionRequest"),
        (b"\x12\x03\xf8\x06\x01", "a field within the openllm.v1.ChatCompletionRequest"),
        (b"\x12\x00" * 50_001, "more than 50000 fields"),
        (b"", "messages is required"),
    ],
    ids=range(9),
)
def test_bytes_that_are_no_request_are_refused(peer: Peer, raw: bytes, says: str) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        peer.raw(CHAT, raw)
    code, message, _ = status(raised.value)
    assert code == "INVALID_ARGUMENT"
    assert says in message
    assert len(message) < 600


def test_an_unknown_method_names_the_known_ones(peer: Peer) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        peer.raw("/openllm.v1.OpenLLM/Chat", b"")
    code, message, _ = status(raised.value)
    assert code == "UNIMPLEMENTED"
    assert "'/openllm.v1.OpenLLM/Chat'" in message
    assert "/openllm.v1.OpenLLM/ChatCompletion" in message


@pytest.mark.parametrize(
    ("error", "code", "retry"),
    [
        (OverloadedError("the queue is full", retry_after=2.0), "RESOURCE_EXHAUSTED", "2"),
        (EngineUnavailableError("it is loading", retry_after=1.0), "UNAVAILABLE", "1"),
    ],
)
def test_a_refusal_says_when_to_come_again(error: Exception, code: str, retry: str) -> None:
    async def produce() -> Any:
        raise error
        yield

    with running_grpc(StubFleet(produce)) as peer:
        found, message, metadata = failing(peer, "ChatCompletion", chat("hi"))
    assert (found, message) == (code, str(error))
    assert metadata["retry-after"] == retry


def test_a_fault_of_ours_keeps_its_text(caplog: pytest.LogCaptureFixture) -> None:
    async def produce() -> Any:
        raise RuntimeError("secret")
        yield

    with running_grpc(StubFleet(produce)) as peer:
        code, message, _ = failing(peer, "ChatCompletion", chat("hi"))
    assert code == "INTERNAL"
    assert "secret" not in message
    assert "secret" in caplog.text


def test_a_stream_that_breaks_ends_with_the_error(peer: Peer) -> None:
    parts: list[Any] = []
    with pytest.raises(grpc.RpcError) as raised:
        parts.extend(peer.stream("ChatCompletionStream", chat("breaks")))
    assert status(raised.value)[0] in ("INTERNAL", "UNAVAILABLE")
    assert not any(part.HasField("usage") for part in parts)


PATHS = [
    *(f"/openllm.v1.OpenLLM/{name}" for name in METHODS),
    "/openllm.v1.OpenLLM/Nothing",
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    "/",
]


@pytest.mark.reliability("S-02")
def test_every_method_but_the_probe_asks_for_the_key(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    fleet = ScriptedFleet(
        {"demo": scripted_engine(tmp_path_factory.mktemp("keys"), "demo")}, RequestDefaults()
    )
    with running_grpc(fleet, ServerSettings(grpc=True, api_key=("secret",))) as peer:
        for path in PATHS:
            for metadata in (
                (),
                (("authorization", "Bearer wrong"),),
                (("authorization", "secret"),),
                (("authorization", "Bearer secret"), ("x-api-key", "secret")),
                (("authorization-bin", b"Bearer secret"),),
            ):
                with pytest.raises(grpc.RpcError) as raised:
                    peer.raw(path, b"", metadata=metadata)
                code, message, trailing = status(raised.value)
                assert code == "UNAUTHENTICATED"
                assert "no valid API key was sent" in message
                assert trailing["error-code"] == "invalid_api_key"
        check = "/grpc.health.v1.Health/Check"
        assert health_pb2.HealthCheckResponse.FromString(peer.raw(check, b"")).status == 1
        for key in (("authorization", "Bearer secret"), ("x-api-key", "secret")):
            answer = peer.call("ChatCompletion", chat("hi"), metadata=(key,))
            assert answer.choices[0].message.content == TEXT
        assert peer.server is not None
        peer.server.apply(ServerSettings(grpc=True, api_key=("other",)))
        with pytest.raises(grpc.RpcError):
            peer.call("ChatCompletion", chat("hi"), metadata=(("x-api-key", "secret"),))
        assert peer.call("ChatCompletion", chat("hi"), metadata=(("x-api-key", "other"),))


def test_health_follows_the_models() -> None:
    async def produce() -> Any:
        yield

    fleet = StubFleet(produce)
    with running_grpc(fleet) as peer:

        def health(service: str) -> int:
            raw = health_pb2.HealthCheckRequest(service=service).SerializeToString()
            answer = peer.raw("/grpc.health.v1.Health/Check", raw)
            return int(health_pb2.HealthCheckResponse.FromString(answer).status)

        assert (health(""), health("openllm.v1.OpenLLM")) == (1, 1)
        fleet.state = "restarting"
        assert (health(""), health("openllm.v1.OpenLLM")) == (1, 2)
        with grpc.insecure_channel(f"127.0.0.1:{peer.port}") as channel:
            watch = channel.unary_stream("/grpc.health.v1.Health/Watch")
            raw = health_pb2.HealthCheckRequest(service="openllm.v1.OpenLLM").SerializeToString()
            told = watch(raw, timeout=30)
            assert health_pb2.HealthCheckResponse.FromString(next(told)).status == 2
            fleet.state = "ready"
            assert health_pb2.HealthCheckResponse.FromString(next(told)).status == 1
            told.cancel()
        with pytest.raises(grpc.RpcError) as raised:
            health("other")
        assert raised.value.code() is grpc.StatusCode.NOT_FOUND


def test_reflection_describes_the_service(peer: Peer) -> None:
    requests = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="openllm.v1.OpenLLM"),
    ]
    with grpc.insecure_channel(f"127.0.0.1:{peer.port}") as channel:
        for version in ("v1", "v1alpha"):
            reflect = channel.stream_stream(
                f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
                request_serializer=lambda each: each.SerializeToString(),
                response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
            )
            services, file = reflect(iter(requests), timeout=30)
            names = [each.name for each in services.list_services_response.service]
            assert "openllm.v1.OpenLLM" in names
            assert b"ChatCompletion" in file.file_descriptor_response.file_descriptor_proto[0]


def test_the_access_log_has_a_line_for_each_call(
    tmp_path_factory: pytest.TempPathFactory, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="openllm.access")
    fleet = ScriptedFleet(
        {"demo": scripted_engine(tmp_path_factory.mktemp("log"), "demo")}, RequestDefaults()
    )
    with running_grpc(fleet, ServerSettings(grpc=True, access_log=True)) as peer:
        peer.call("ListModels", pb.ListModelsRequest(), metadata=(("x-request-id", "mine"),))
        failing(peer, "ChatCompletion", chat("hi", n=99))
    lines = [json.loads(each.getMessage()) for each in caplog.records if "path" in each.message]
    assert [(each["path"], each["status"]) for each in lines] == [
        ("/openllm.v1.OpenLLM/ListModels", "OK"),
        ("/openllm.v1.OpenLLM/ChatCompletion", "INVALID_ARGUMENT"),
    ]
    assert lines[0]["request_id"] == "mine"


def test_connections_do_not_share_state(peer: Peer) -> None:
    with connected(peer.port) as other:
        assert other.call("ChatCompletion", chat("hi")).choices[0].message.content == TEXT
