"""`get_runner`: runners in this process, alone and in services that are called over HTTP."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from bentoml.exceptions import BadInput, RemoteException
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

import openllm
from openllm.bento.runner_handles import Item, _line, _lines, error_of, failure_of
from openllm.bento.runners import get_family_runner, get_runner
from openllm.errors import (
    ConfigurationError,
    ContextLengthError,
    EngineCrashedError,
    EngineUnavailableError,
    InvalidRequestError,
)
from openllm.llm.output import CompletionChunk, GenerationOutput
from openllm.runner.wire import Failure
from tests.unit.bento.models import (
    JSON,
    Runnable,
    Text,
    app_of,
    client,
    own_runner,
    script,
    service,
)
from tests.waiting import until

SAID = {"default": {"reply": "You said {user}."}}


class Shout(Runnable):
    SUPPORTED_RESOURCES = ("cpu",)
    SUPPORTS_CPU_MULTI_THREADING = True

    @Runnable.method(batchable=False)
    def shout(self, text: str) -> str:
        return text.upper()


@pytest.mark.spec("S0-50")
def test_an_embedded_runner_is_usable_at_once() -> None:
    runner = get_runner("demo", embedded=True, max_tokens=4, temperature=0)
    assert (runner.name, runner.embedded, runner.models) == ("demo", True, [])
    assert not runner.runnable_init_params["llm"]._engine.loaded  # Nor in BentoML's supervisor.
    reply = runner.chat.run("Hello")
    assert reply["message"]
    assert reply["configuration"]["max_tokens"] == 4
    assert runner.chat.run("Hello")["message"] == reply["message"]
    runner.init_local(quiet=True)  # As a service does that it is in.
    assert runner.chat.run("Hello")["message"] == reply["message"]


def test_without_embedded_it_is_for_a_process_of_its_own(tmp_path: Path) -> None:
    runner = get_runner(script(tmp_path, "apart"))
    assert runner.embedded is False
    with pytest.raises(Exception, match="Runner is not initialized"):
        runner.chat.run("Hello")


def test_mistakes_are_told_before_anything_is_loaded() -> None:
    with pytest.raises(TypeError, match="did you mean 'top_k'"):
        get_runner("demo", topk=3)
    with pytest.raises(ConfigurationError, match="top_p"):
        get_runner("demo", top_p=3)
    with pytest.raises(ConfigurationError, match="Did you mean 'llama'"):
        get_runner("lama")


@pytest.mark.anyio
async def test_calls_run_at_the_same_time(tmp_path: Path) -> None:
    slow = {"tokens_per_second": 100, "default": {"reply": "a ", "repeat": 4000}}
    runner = get_runner(script(tmp_path, "slow", **slow), embedded=True)
    calls = [asyncio.create_task(runner.chat.async_run("hi")) for _ in range(3)]
    llm = runner.runnable_init_params["llm"]
    await llm.load()
    await until(lambda: llm.model.running == 3)  # BentoML's own handle would run one by one.
    await llm.close()
    await asyncio.wait(calls)
    assert {type(call.exception()) for call in calls} == {EngineUnavailableError}


@pytest.mark.anyio
@pytest.mark.spec("S1-36")
async def test_leaving_a_call_ends_its_work(tmp_path: Path) -> None:
    slow = {"tokens_per_second": 20, "default": {"reply": "a ", "repeat": 4000}}
    runner = get_runner(script(tmp_path, "slow", **slow), embedded=True)
    llm = runner.runnable_init_params["llm"]
    loading = asyncio.create_task(runner.chat.async_run("hi"))
    await asyncio.sleep(0)
    loading.cancel()
    calls = [asyncio.create_task(runner.chat.async_run("hi")) for _ in range(2)]
    await until(lambda: llm.model.running == 2)
    calls[0].cancel()
    await asyncio.wait([loading, calls[0]])
    await until(lambda: llm.model.running == 1)
    assert not calls[1].done()
    await llm.close()
    with pytest.raises(EngineUnavailableError):
        await calls[1]


@pytest.mark.anyio
async def test_a_refused_call_is_an_error_of_bentoml_too(tmp_path: Path) -> None:
    runner = get_runner(script(tmp_path, "m"), embedded=True)
    for refused in (
        runner.chat.async_run("hi", temperature=7),
        anext(runner.chat_stream.async_stream("hi", temperature=7)),
    ):
        with pytest.raises(BadInput, match="temperature must be at most 1") as told:
            await refused
        assert isinstance(told.value, InvalidRequestError)
        assert told.value.param == "temperature"


@pytest.mark.anyio
@pytest.mark.spec("S0-54", "S1-39")
async def test_two_models_and_a_users_own_runner_in_one_service(tmp_path: Path) -> None:
    first = get_runner(script(tmp_path, "first", **SAID), embedded=True, top_k=3)
    second = get_runner("demo", embedded=True, max_tokens=5, temperature=0)
    own = own_runner(Shout, "shout")
    svc = service(first, second, own)

    @svc.api(input=JSON(), output=JSON())
    async def chat(body: dict[str, Any]) -> Any:
        return await first.chat.async_run(body)

    @svc.api(input=Text(), output=Text())
    async def complete(text: str) -> str:
        reply = await second.complete.async_run(text)
        return str(await own.shout.async_run(reply["choices"][0]))

    @svc.api(input=Text(), output=Text())
    async def stream(text: str) -> AsyncGenerator[str, None]:
        async for piece in first.chat_stream.async_stream(text):
            yield piece

    own.init_local(quiet=True)  # As the server does at its start.
    async with client(app_of(svc)) as http:
        answer = await http.post("/chat", json={"prompt": "hi", "top_p": 0.5})
        assert answer.json()["message"] == "You said hi."
        assert answer.json()["configuration"]["top_k"] == 3
        refused = await http.post("/chat", json={"prompt": "hi", "top_p": 7})
        assert refused.status_code == 400
        assert "top_p must be at most 1" in refused.text
        text = {"headers": {"content-type": "text/plain"}, "content": "Once upon"}
        completed = (await http.post("/complete", **text)).text
        assert completed == second.complete.run("Once upon")["choices"][0].upper()
        assert (await http.post("/stream", **text)).text == "You said Once upon."


@pytest.mark.anyio
@pytest.mark.spec("S0-55")
async def test_a_service_mounts_an_asgi_app_and_is_mounted_in_one(tmp_path: Path) -> None:
    runner = get_runner(script(tmp_path, "m", **SAID), embedded=True)
    svc = service(runner)

    @svc.api(input=Text(), output=Text())
    async def say(text: str) -> str:
        return str((await runner.chat.async_run(text))["message"])

    async def page(request: Request) -> PlainTextResponse:
        reply = await runner.chat.async_run(request.query_params["text"])
        return PlainTextResponse(reply["message"])

    inner = Starlette(routes=[Route("/page", page)])
    svc.mount_asgi_app(inner, path="/web")
    outer = Starlette(routes=[Mount("/models", app=app_of(svc)), Route("/page", page)])
    text = {"headers": {"content-type": "text/plain"}, "content": "hi"}
    for app, before in ((app_of(svc), ""), (outer, "/models")):
        async with client(app) as http:
            assert (await http.post(f"{before}/say", **text)).text == "You said hi."
            assert (await http.get(f"{before}/web/page?text=you")).text == "You said you."
            assert (await http.get(f"{before}/readyz")).status_code == 200
    async with client(outer) as http:
        assert (await http.get("/page?text=out")).text == "You said out."


@pytest.mark.spec("S0-49")
def test_a_familys_runner_is_of_that_family() -> None:
    with pytest.raises(
        ConfigurationError, match="'flan-t5' is of the family flan_t5, not of llama"
    ):
        get_family_runner("llama", "flan-t5")
    assert get_family_runner("llama", "demo").name == "demo"


@pytest.mark.spec("S0-10")
@pytest.mark.parametrize("variable", ["BENTOML_CONFIGURATION", "BENTOML_CONFIG"])
def test_the_configuration_file_means_a_runner_by_the_models_name(
    tmp_path: Path, variable: str
) -> None:
    file = tmp_path / "bentoml.yaml"
    file.write_text("version: 1\nrunners:\n  demo: {resources: {cpu: 1}, traffic: {timeout: 7}}\n")
    code = (
        "import json\n"
        "from open_llm_server import get_runner\n"
        "def threads(runner): return runner.runnable_init_params['llm'].config.load.threads\n"
        "demo, other = get_runner('demo'), get_runner('other=demo')\n"
        "print(json.dumps([demo.resource_config, demo.scheduled_worker_env_map[0]"
        "['OMP_NUM_THREADS'], threads(demo), threads(get_runner('demo', threads=2)),"
        " other.resource_config, threads(other)]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, variable: str(file)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == [{"cpu": 1}, "1", 1, 2, None, None]


def test_a_service_of_the_current_kind_leaves_runners_their_configuration(tmp_path: Path) -> None:
    file = tmp_path / "bentoml.yaml"
    file.write_text("version: 1\nrunners:\n  demo: {resources: {cpu: 1}}\n")
    code = (
        "from openllm.bento.edge import Front, create_app\n"
        "from openllm.config.server import ServerSettings\n"
        "from openllm.fleet import Fleet\n"
        "from openllm.models.locate import find_local\n"
        "from openllm.models.ref import parse_ref\n"
        "create_app(Front(Fleet([find_local(parse_ref('demo'))]), ServerSettings()))\n"
        "from open_llm_server import get_runner\n"
        "print(get_runner('demo').resource_config)\n"
        "from bentoml._internal.configuration.containers import BentoMLContainer\n"
        "print('openllm' in BentoMLContainer.config.services.get())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "BENTOML_CONFIG": str(file)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("{'cpu': 1}\nTrue\n", 0), done.stderr


def test_it_warns_of_nothing() -> None:
    code = "from open_llm_server import get_runner; get_runner('demo')"
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.anyio
@pytest.mark.parametrize("size", [1, 2, 7, 10_000])
async def test_items_survive_however_a_stream_is_cut(size: int) -> None:
    chunk = CompletionChunk(0, "世\n界", [1, 2], -0.5, [{3: -0.25}], "stop")
    output = GenerationOutput("grüße", True, [chunk], [7], "r")
    items = [Item(value="世\n"), Item(value={"a": [1]}), Item(output=output), Item()]
    text = "".join(map(_line, items))
    assert text.isascii()

    async def pieces() -> AsyncGenerator[str, None]:
        for start in range(0, len(text), size):
            yield text[start : start + size]

    from msgspec.json import decode

    assert [decode(line, type=Item) async for line in _lines(pieces(), "m")] == items


def test_an_error_keeps_its_meaning_between_processes() -> None:
    error = ContextLengthError("too long", param="prompt")
    there = failure_of(error)
    assert there == Failure("ContextLengthError", "too long", "prompt", "context_length_exceeded")
    back = error_of(there)
    assert type(back) is ContextLengthError
    assert (back.message, back.param, back.code) == (error.message, error.param, error.code)


@pytest.mark.parametrize(
    ("error", "there"),
    [
        (TypeError("no argument"), TypeError("no argument")),
        (UnicodeError("broken"), ValueError("UnicodeError: broken")),
        (KeyError("x"), RemoteException("KeyError: 'x'")),
    ],
)
def test_errors_of_others_keep_their_words(error: Exception, there: Exception) -> None:
    back = error_of(failure_of(error))
    assert (type(back), str(back)) == (type(there), str(there))


@pytest.mark.anyio
async def test_a_broken_connection_is_the_runners_end() -> None:
    import aiohttp

    async def broken() -> AsyncGenerator[str, None]:
        yield _line(Item(value="a"))
        raise aiohttp.ClientPayloadError

    lines = _lines(broken(), "mine")
    assert "a" in await anext(lines)
    with pytest.raises(EngineCrashedError, match="the process of runner 'mine' ended a stream"):
        await anext(lines)


def test_it_is_the_runner_of_an_llm_too(tmp_path: Path) -> None:
    llm = openllm.LLM(script(tmp_path, "m", **SAID))
    llm.runner.init_local(quiet=True)
    assert llm.runner.chat.run("hi")["message"] == "You said hi."
    llm.sync_close()
