"""What each method sends and returns, in its blocking and its awaited forms."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from typing import Any

import pytest

import open_llm_client
from open_llm_client.protocol import ChatOptions
from tests.unit.client.loopback_peer import Peer, failing, sending

Call = Callable[..., Any]

SAMPLING = {"temperature": 0.5, "top_k": 3, "top_p": 0.15, "stop_sequence": "--"}


def test_chat_sends_only_what_was_given(call: Call, peer: Peer) -> None:
    result = call("chat", "Hello, how are you?")
    assert peer.bodies == [{"prompt": "Hello, how are you?"}]
    assert str(result) == result.message == "Hello, world!"
    assert json.loads(result.to_json()) == result.to_dict()
    assert result.to_dict() == {"message": "Hello, world!", "configuration": peer.bodies[0]}


def test_chat_passes_every_option_on(call: Call, peer: Peer) -> None:
    options = {
        **SAMPLING,
        "model": "large",
        "frequency_penalty": 0.1,
        "presence_penalty": 0.2,
        "max_tokens": 9,
        "seed": 7,
        "echo": True,
        "messages": [{"role": "user", "content": "Hi"}],
    }
    assert options.keys() == ChatOptions.__optional_keys__
    call("chat", **options)
    assert peer.bodies == [options]


def test_none_means_the_default_of_the_server(call: Call, peer: Peer) -> None:
    call("chat", prompt="Hi", temperature=None, top_k=0)
    assert peer.bodies == [{"prompt": "Hi", "top_k": 0}]


def test_complete(call: Call, peer: Peer) -> None:
    result = call("complete", "My name is", n=2, **SAMPLING)
    assert result.choices == ["a", ""]
    assert result.configuration == {"prompt": "My name is", "n": 2, **SAMPLING}


def test_embed(call: Call, peer: Peer) -> None:
    assert call("embed", ["a", "bcd"], model="small") == [[1.0, 0.5], [3.0, 0.5]]
    assert peer.bodies == [{"input": ["a", "bcd"], "model": "small"}]


def test_embed_refuses_one_string(call: Call, peer: Peer) -> None:
    with pytest.raises(TypeError, match=r"embed\(\[text\]\)"):
        call("embed", "soup")
    assert peer.requests == []


@pytest.mark.parametrize("method", ["chat", "complete"])
def test_an_unknown_option_is_named(call: Call, peer: Peer, method: str) -> None:
    with pytest.raises(TypeError, match=rf"{method}\(\).*'temprature'.*temperature"):
        call(method, "Hi", temprature=1)
    assert peer.requests == []


def test_a_number_that_json_lacks_is_refused(call: Call, peer: Peer) -> None:
    with pytest.raises(ValueError, match="JSON"):
        call("chat", "Hi", temperature=float("nan"))
    assert peer.requests == []


def test_the_key_is_sent_and_never_shown(
    call: Call, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPEN_LLM_API_KEY", "from-environment")
    call("chat", "Hi")
    call("chat", "Hi", options={"api_key": "given"})
    call("chat", "Hi", options={"api_key": ""})
    sent = [headers.get("authorization") for _, _, headers, _ in peer.requests]
    assert sent == ["Bearer from-environment", "Bearer given", None]
    with open_llm_client.create(peer.url) as client:
        assert "from-environment" not in f"{client!r} {client._settings!r}"


def test_a_path_before_the_routes_is_kept(peer: Peer) -> None:
    with open_llm_client.create(f"{peer.url}/behind/a/proxy/v1/") as client:
        client.chat("Hi")
    assert peer.requests[0][1] == "/behind/a/proxy/chat"


def test_models_and_health(peer: Peer) -> None:
    with open_llm_client.create(peer.url) as client:
        assert [str(model) for model in client.models()] == ["small", "large"]
        assert client.health() == open_llm_client.Health(True, {"status": "ready"})
        peer.answers.append(failing(503, "small is loading"))
        assert client.is_ready() is False
        peer.answers.append(failing(503, "small is loading"))
        assert client.health().details["error"]["message"] == "small is loading"


def test_something_else_at_the_address_is_not_taken_for_health(peer: Peer) -> None:
    peer.answers.append(sending(b"<html>", "text/html", 404))
    with open_llm_client.create(peer.url) as client, pytest.raises(open_llm_client.NotFound):
        client.is_ready()


def test_wait_until_ready_outlasts_a_start(peer: Peer) -> None:
    peer.answers.extend([failing(503), failing(503)])
    with open_llm_client.create(peer.url) as client:
        client.wait_until_ready(timeout=30)
    assert [path for _, path, _, _ in peer.requests] == ["/readyz"] * 3


@pytest.mark.anyio
async def test_wait_until_ready_gives_up(peer: Peer) -> None:
    peer.answers.extend([failing(503)] * 100)
    async with open_llm_client.create_async(peer.url) as client:
        with pytest.raises(open_llm_client.TimedOut, match=r"not ready after 0\.3 s"):
            await client.wait_until_ready(timeout=0.3)


@pytest.mark.anyio
async def test_blocking_calls_work_inside_a_running_loop(peer: Peer) -> None:
    with open_llm_client.create(peer.url) as client:
        assert client.chat("Hi").message == "Hello, world!"
        assert "".join(client.chat("Hi", stream=True)) == "Hello, world\u2028!"


def test_async_forms_work_in_any_number_of_loops(peer: Peer) -> None:
    with open_llm_client.create(peer.url) as client:
        for _ in range(3):
            assert asyncio.run(client.async_chat("Hi")).message == "Hello, world!"


def test_an_async_client_says_that_it_belongs_to_its_loop(peer: Peer) -> None:
    client = open_llm_client.create_async(peer.url)

    async def talk_and_close() -> None:
        async with client:
            await client.chat("Hi")

    asyncio.run(talk_and_close())
    with pytest.raises(RuntimeError, match="one event loop"):
        asyncio.run(client.models())


def test_threads_share_a_client(peer: Peer) -> None:
    results: list[str] = []
    with open_llm_client.create(peer.url) as client:
        threads = [
            threading.Thread(target=lambda: results.append(client.chat("Hi").message))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert results == ["Hello, world!"] * 8


def test_a_proxy_of_the_environment_is_not_asked_for_this_machine(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with open_llm_client.create(peer.url, max_retries=0) as client:
        assert client.chat("Hi").message == "Hello, world!"
