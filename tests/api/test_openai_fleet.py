"""The API over the real fleet: models in processes of their own, one of which is killed."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from openllm.fleet import Fleet
from openllm.runner.client import Runner
from openllm.types import LocalModel
from tests.api.conftest import SCRIPT, TEXT, Server, chat, running
from tests.api.test_openai_streams import FREED, connect, drop, exchange
from tests.waiting import until

pytestmark = pytest.mark.anyio


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """Models "one" and "two", 50 tokens a second each."""
    models = []
    for name in ("one", "two"):
        path = tmp_path / f"{name}.script.json"
        path.write_text(json.dumps({**SCRIPT, "tokens_per_second": 50}))
        models.append(LocalModel(name=name, path=str(path), format="script"))
    with running(Fleet(models)) as server:
        yield server


@pytest.mark.spec("S0-06")
async def test_both_models_answer(server: Server) -> None:
    async with server.sdk() as sdk:
        for name in ("one", "two"):
            answer = await sdk.chat.completions.create(**chat() | {"model": name})
            assert (answer.model, answer.choices[0].message.content) == (name, TEXT)
            assert (await sdk.embeddings.create(model=name, input="hi")).data[0].embedding
        assert [model.id async for model in sdk.models.list()] == ["one", "two"]


@pytest.mark.reliability("C-24")
async def test_requests_reach_the_model_that_they_name(tmp_path: Path) -> None:
    names = [f"model-{number}" for number in range(6)]
    models = []
    for name in names:
        path = tmp_path / f"{name}.script.json"
        path.write_text(json.dumps({"default": {"reply": f"I am {name}: {{user}}"}}))
        models.append(LocalModel(name=name, path=str(path), format="script"))
    chance = random.Random(0)
    wrong = ["MODEL-1", "model-9", "model_2", "model-3 "]
    with running(Fleet(models)) as server:
        async with server.sdk() as sdk:

            async def listed() -> None:
                assert [model.id async for model in sdk.models.list()] == names

            async def right(name: str, word: str) -> None:
                asked = {"model": name, "messages": [{"role": "user", "content": word}]}
                answer = await sdk.chat.completions.create(**asked)
                assert answer.model == name
                assert answer.choices[0].message.content == f"I am {name}: {word}"

            async def unknown(name: str) -> None:
                with pytest.raises(openai.NotFoundError) as told:
                    await sdk.chat.completions.create(**chat() | {"model": name})
                assert told.value.code == "model_not_found"

            work = [right(chance.choice(names), f"word{number}") for number in range(120)]
            work += [unknown(name) for name in wrong] * 3
            work += [listed() for _ in range(12)]
            chance.shuffle(work)
            os.kill(server.fleet.pids()["model-0"], signal.SIGKILL)
            await until(lambda: not server.fleet.ready)
            await listed()
            await until(lambda: server.fleet.ready)
            await asyncio.gather(*work)


@pytest.mark.reliability("F-01")
async def test_a_client_that_leaves_frees_its_place(server: Server) -> None:
    body = chat("slow", stream=True, n=8) | {"model": "one"}
    reader, writer = await connect(server.port, body)
    await reader.readuntil(b'"content":"word')
    drop(writer, reset=True)
    # All eight places were taken, for eight seconds and more.
    await until(lambda: not server.fleet.reports()[0].running, FREED)
    _, answer = await exchange(server.port, chat() | {"model": "one"})
    assert json.loads(answer)["choices"][0]["message"]["content"] == TEXT


@pytest.mark.reliability("F-05")
async def test_a_killed_engine(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = threading.Event()
    start = Runner.start

    async def later(runner: Runner, limit: float | None = None) -> None:
        await until(looked.is_set, 120)
        await start(runner, limit)

    monkeypatch.setattr(Runner, "start", later)
    body = chat("slow") | {"model": "one"}
    plain = [asyncio.create_task(exchange(server.port, body)) for _ in range(2)]
    streams = [await connect(server.port, body | {"stream": True}) for _ in range(6)]
    begun = [await reader.readuntil(b'"content":"word') for reader, _ in streams]
    other = asyncio.create_task(exchange(server.port, chat("long", stream=True) | {"model": "two"}))
    await until(lambda: server.fleet.reports()[0].running == 8)
    os.kill(server.fleet.pids()["one"], signal.SIGKILL)
    ends = await asyncio.gather(*plain)
    rests = [await reader.read() for reader, _ in streams]
    for head, answer in ends:
        assert head.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: " in head
        assert json.loads(answer)["error"]["code"] == "engine_crashed"
    for (_, writer), said, rest in zip(streams, begun, rests, strict=True):
        assert said.startswith(b"HTTP/1.1 200 ")
        whole = said + rest
        error = json.loads(re.findall(rb"data: (.*)\n\n", whole)[-1])["error"]
        assert (error["type"], error["code"]) == ("server_error", "engine_crashed")
        assert b'"finish_reason":"' not in whole
        assert b"[DONE]" not in whole
        writer.close()
    async with server.http() as http:
        assert (await http.get("/readyz")).status_code == 503
        refused = await http.post("/v1/chat/completions", json=chat() | {"model": "one"})
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) >= 1
        looked.set()
        _, body = await other
        assert b"[DONE]" in body
        await until(lambda: server.fleet.ready)
        assert (await http.get("/readyz")).status_code == 200
        again = await http.post("/v1/chat/completions", json=chat() | {"model": "one"})
        assert again.json()["choices"][0]["message"]["content"] == TEXT
