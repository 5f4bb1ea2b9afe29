"""`llm.runner` in BentoML's older services."""

from __future__ import annotations

import warnings
from typing import Any

import httpx2
import pytest

import openllm
from openllm.errors import OutOfMemoryError
from tests.unit.llm.conftest import MakeLLM
from tests.unit.llm.recording import RecordingEngine
from tests.waiting import until


def legacy_service(*runners: Any) -> Any:
    with warnings.catch_warnings():  # That it is old is known.
        warnings.simplefilter("ignore")
        from bentoml.legacy import Service

        return Service("chat", runners=list(runners))


@pytest.mark.anyio
@pytest.mark.spec("S1-39", "S1-09")
async def test_a_runner_has_the_methods_of_the_llm(make_llm: MakeLLM) -> None:
    llm = make_llm()
    runner = llm.runner
    assert runner is llm.runner
    assert runner.name == "test0"
    assert RecordingEngine.starts == []
    runner.init_local(quiet=True)
    assert RecordingEngine.starts == ["test0"]
    whole = await runner.generate.async_run("hi", "r", max_new_tokens=2)
    assert whole == runner.generate.run("hi", "r", max_new_tokens=2)
    assert whole == await llm.generate("hi", "r", max_new_tokens=2)
    stream = runner.generate_iterator.async_stream("hi", "r", max_new_tokens=2)
    assert [output async for output in stream][-1] == whole
    assert runner.embed.run("a cat") == llm.sync_embed("a cat")
    assert RecordingEngine.starts == ["test0"]


@pytest.mark.anyio
@pytest.mark.spec("S1-39")
async def test_a_runner_needs_no_service(make_llm: MakeLLM) -> None:
    runner = make_llm({"default": {"reply": "You said {user}."}}).runner
    assert RecordingEngine.starts == []
    reply = await runner.chat.async_run("hi")
    assert reply["message"] == "You said hi."
    assert RecordingEngine.starts == ["test0"]


@pytest.mark.spec("S1-11")
def test_a_runner_says_what_it_can_run_on(make_llm: MakeLLM) -> None:
    runnable = make_llm().runner.runnable_class
    assert runnable.SUPPORTED_RESOURCES == ("nvidia.com/gpu", "amd.com/gpu", "cpu")
    assert runnable.SUPPORTS_CPU_MULTI_THREADING is True


@pytest.mark.spec("S1-09")
def test_a_runner_that_cannot_load_says_why(make_llm: MakeLLM) -> None:
    fault = {"kind": "out_of_memory", "message": "need 9 GiB"}
    runner = make_llm({"load_fault": fault}).runner
    with pytest.raises(
        RuntimeError, match="Failed to load the model correctly: need 9 GiB"
    ) as told:
        runner.runnable_class(**runner.runnable_init_params)
    assert isinstance(told.value.__cause__, OutOfMemoryError)


@pytest.mark.anyio
@pytest.mark.spec("S1-36")
async def test_leaving_a_runners_stream_ends_its_work(make_llm: MakeLLM) -> None:
    slow = {"tokens_per_second": 50, "default": {"reply": "a ", "repeat": 4000}}
    llm = make_llm(slow)
    llm.runner.init_local(quiet=True)
    stream = llm.runner.generate_iterator.async_stream("hi")
    await anext(stream)
    assert llm.model.running == 1
    await stream.aclose()
    await until(lambda: not llm.model.running)


@pytest.mark.anyio
@pytest.mark.spec("S1-39")
async def test_a_service_answers_with_the_llm_and_its_runner(make_llm: MakeLLM) -> None:
    llm = make_llm({"default": {"reply": "You said {user}."}})
    service = legacy_service(llm.runner)

    async def chat(text: str) -> str:  # B22: the document's example returns nothing.
        return (await llm.generate(text)).outputs[0].text

    async def stream(text: str) -> str:
        outputs = llm.runner.generate_iterator.async_stream(text)
        return [output async for output in outputs][-1].outputs[0].text

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from bentoml.io import Text

        for api in (chat, stream):
            service.api(input=Text(), output=Text())(api)
        app = service.asgi_app
    llm.runner.init_local(quiet=True)  # As the server does at its start.
    transport = httpx2.ASGITransport(app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
        for route in ("/chat", "/stream"):
            reply = await client.post(
                route, content="hello", headers={"content-type": "text/plain"}
            )
            assert (reply.status_code, reply.text) == (200, "You said hello.")
    assert RecordingEngine.starts == ["test0"]


def test_a_runner_has_a_name_that_bentoml_takes() -> None:
    from openllm.bento.runners import _runner_name

    for name in ("Qwen1.5-0.5B:Chat", "___", "a" * 100):
        runner_name = _runner_name(name)
        assert runner_name == runner_name.lower()
        assert 0 < len(runner_name) <= 63
    assert openllm.LLM("Demo:1=demo").runner.name == "demo-1"
