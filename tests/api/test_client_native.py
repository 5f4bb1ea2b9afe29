"""Our client against the real app, with scripted models behind it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import open_llm_client
from open_llm_client import Client
from openllm.config.model import RequestDefaults
from openllm.config.server import ServerSettings
from tests.api.conftest import TEXT, ScriptedFleet, Server, running, scripted_engine
from tests.api.test_openai_streams import FREED
from tests.waiting import wait_until

SAMPLING = {"temperature": 0.5, "top_k": 3, "top_p": 0.15, "stop_sequence": "--"}


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with open_llm_client.create(server.url) as client:
        yield client


@pytest.mark.spec("S0-47")
def test_chat_as_the_document_has_it(server: Server) -> None:
    client = open_llm_client.create(server.url.replace("127.0.0.1", "localhost"))
    assert client.chat("Hello, how are you?").message == TEXT
    result = client.chat(prompt="Hello, how are you?", **SAMPLING)
    assert result.message == TEXT
    answered = json.loads(result.to_json())
    assert answered.keys() == {"message", "configuration"}
    expected = {"prompt": "Hello, how are you?", **SAMPLING}
    assert expected.items() <= answered["configuration"].items()
    client.close()


@pytest.mark.spec("S0-48")
def test_the_other_calls_as_the_document_has_them(client: Client) -> None:
    async def chat() -> str:
        return str(await client.async_chat("Hello, how are you?"))

    assert asyncio.run(chat()) == TEXT
    result = client.complete("Hello, how are you? My name is ...")
    assert len(result.choices) == 1
    assert result.configuration["prompt"] == "Hello, how are you? My name is ..."
    texts = ["Hello, how are you?", "soup is my favorite food"]
    first, second = client.embed(texts)
    assert len(first) == len(second)
    assert np.isfinite(np.dot(first, second))
    assert np.dot(first, first) == pytest.approx(1.0, abs=1e-3)
    assert asyncio.run(client.async_embed(texts)) == [first, second]
    assert asyncio.run(client.async_complete("Hello")).choices == client.complete("Hello").choices


def test_n_continuations(client: Client) -> None:
    assert len(client.complete("Hello", n=3).choices) == 3


def test_echo_begins_with_the_prompt(client: Client) -> None:
    assert client.chat("Hi", echo=True).message == f"Hi {TEXT}"


def test_a_conversation(client: Client) -> None:
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "long"},
    ]
    assert client.chat(messages=turns, max_tokens=3).message == "word word"


@pytest.mark.spec("S0-46")
def test_the_stream_joins_to_the_whole_reply(client: Client) -> None:
    whole = client.chat("odd", temperature=0)
    with client.chat("odd", temperature=0, stream=True) as stream:
        pieces = list(stream)
    assert "".join(pieces) == stream.message == whole.message
    assert stream.configuration == whole.configuration


@pytest.mark.anyio
async def test_the_async_stream_joins_to_the_whole_reply(server: Server) -> None:
    async with open_llm_client.create_async(server.url) as client:
        whole = await client.chat("long")
        pieces = [piece async for piece in client.chat("long", stream=True)]
    assert "".join(pieces) == whole.message
    assert len(pieces) > 1


@pytest.mark.parametrize("way", ["close", "drop"])
def test_ending_a_stream_early_stops_the_engine(server: Server, client: Client, way: str) -> None:
    stream = client.chat("slow", model="slow", stream=True)
    assert next(stream)
    wait_until(lambda: running_sequences(server) == 1)  # Others may just be leaving.
    if way == "close":
        stream.close()
    else:
        del stream
    wait_until(lambda: not running_sequences(server), FREED)


def running_sequences(server: Server) -> int:
    batch = server.fleet.engines["slow"]._batch
    return len(batch.running) if batch is not None else 0


@pytest.mark.parametrize("stream", [False, True])
def test_a_refused_value_is_named(client: Client, stream: bool) -> None:
    with pytest.raises(open_llm_client.BadRequest) as caught:
        list(client.chat("Hi", temperature=7, stream=stream))  # type: ignore[call-overload]
    assert caught.value.param == "temperature"
    assert caught.value.request_id


@pytest.mark.parametrize("stream", [False, True])
def test_an_unknown_model_is_named(client: Client, stream: bool) -> None:
    with pytest.raises(open_llm_client.NotFound, match="huge") as caught:
        list(client.chat("Hi", model="huge", stream=stream))  # type: ignore[call-overload]
    assert caught.value.code == "model_not_found"


def test_a_prompt_too_long(client: Client) -> None:
    with pytest.raises(open_llm_client.BadRequest) as caught:
        client.chat("word " * 1000)
    assert caught.value.code == "context_length_exceeded"


def test_a_failure_in_the_middle(client: Client) -> None:
    stream = client.chat("breaks", stream=True)
    with pytest.raises(open_llm_client.ServerError) as caught:
        list(stream)
    assert stream.message == "one two three"
    assert caught.value.status is None
    assert caught.value.code == "internal_error"
    assert caught.value.request_id


def test_models_and_readiness(server: Server, client: Client) -> None:
    assert [model.id for model in client.models()] == list(server.fleet.engines)
    client.wait_until_ready(timeout=30)
    health = client.health()
    assert health.ready
    assert health.details["status"] == "ready"


def test_keys(tmp_path: Path) -> None:
    fleet = ScriptedFleet({"demo": scripted_engine(tmp_path, "demo")}, RequestDefaults())
    with running(fleet, ServerSettings(api_key=("secret",))) as server:
        with open_llm_client.create(server.url, api_key="") as stranger:
            assert stranger.is_ready()
            with pytest.raises(open_llm_client.Unauthorized):
                stranger.chat("Hi")
        with open_llm_client.create(server.url, api_key="secret") as client:
            assert client.chat("Hi").message == TEXT
