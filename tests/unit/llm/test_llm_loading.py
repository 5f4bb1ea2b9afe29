"""When the model is loaded, how often, and when its memory goes."""

from __future__ import annotations

import asyncio
import gc
import logging
import multiprocessing
import threading
import time
from typing import Any

import pytest

import openllm
from openllm.engines.scripted_engine import ScriptedEngine
from openllm.errors import EngineStartError, EngineUnavailableError, OutOfMemoryError
from tests.unit.llm.conftest import MakeLLM
from tests.unit.llm.recording import RecordingEngine

SLOW = {"load_seconds": 0.1, "default": {"reply": "hi"}}


@pytest.mark.spec("S1-05", "S1-04")
def test_the_first_use_loads_and_later_ones_do_not(make_llm: MakeLLM) -> None:
    llm = make_llm()
    assert RecordingEngine.starts == []
    model = llm.model
    assert isinstance(model, RecordingEngine)
    ids = llm.tokenizer.encode("hi<|im_end|>")
    assert ids == [104, 105, 257]
    assert llm.tokenizer.encode("<|im_end|>", special=False)[0] == ord("<")
    assert llm.tokenizer.decode(ids) == "hi<|im_end|>"
    assert llm.model is model
    llm.sync_generate("hi")
    assert RecordingEngine.starts == ["test0"]


@pytest.mark.spec("S1-05")
@pytest.mark.parametrize("first", ["tokenizer", "generate", "embed"])
def test_whatever_comes_first_loads_once(make_llm: MakeLLM, first: str) -> None:
    llm = make_llm()
    if first == "tokenizer":
        assert llm.tokenizer is not None
        assert llm.tokenizer.encode("a") == [97]
    elif first == "generate":
        llm.sync_generate("hi")
    else:
        llm.sync_embed("hi")
    assert len(RecordingEngine.starts) == 1


@pytest.mark.anyio
@pytest.mark.spec("S1-05")
async def test_all_who_come_at_once_share_one_load(make_llm: MakeLLM) -> None:
    llm = make_llm(SLOW)
    threads = [threading.Thread(target=llm.sync_generate, args=("hi",)) for _ in range(4)]
    for thread in threads:
        thread.start()
    await asyncio.gather(*(llm.generate("hi") for _ in range(4)))
    await asyncio.gather(*map(asyncio.to_thread, [thread.join for thread in threads]))
    assert len(RecordingEngine.starts) == 1


@pytest.mark.anyio
async def test_one_who_leaves_does_not_stop_the_load(make_llm: MakeLLM) -> None:
    llm = make_llm(SLOW)
    leaver = asyncio.create_task(llm.load())
    await asyncio.sleep(0.02)
    stayer = asyncio.create_task(llm.generate("hi"))
    await asyncio.sleep(0.02)
    leaver.cancel()
    assert (await stayer).finished
    assert leaver.cancelled()
    assert len(RecordingEngine.starts) == 1


@pytest.mark.anyio
async def test_loading_does_not_hold_up_the_callers_loop(make_llm: MakeLLM) -> None:
    llm = make_llm(SLOW)
    loading = asyncio.create_task(llm.load())
    turns = 0
    while not loading.done():
        await asyncio.sleep(0.001)
        turns += 1
    assert turns > 10


def test_after_a_failed_load_the_next_use_tries_again(
    make_llm: MakeLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = make_llm()

    async def fail(_: Any) -> None:
        raise EngineStartError("no disk")

    with monkeypatch.context() as patch:
        patch.setattr(ScriptedEngine, "start", fail)
        for _ in range(2):
            with pytest.raises(EngineStartError, match="no disk"):
                llm.sync_generate("hi")
    assert llm.sync_generate("hi").finished
    assert len(RecordingEngine.starts) == 3


def test_an_engine_that_cannot_load_is_closed_again(make_llm: MakeLLM) -> None:
    llm = make_llm({"load_fault": {"kind": "out_of_memory", "message": "need 9 GiB"}})
    with pytest.raises(OutOfMemoryError, match="need 9 GiB"):
        _ = llm.model


def test_the_choice_of_the_engine_is_logged(
    make_llm: MakeLLM, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "openllm.llm"):
        llm = make_llm()
        llm.sync_generate("hi")
    assert llm.backend == "scripted"
    assert [each.getMessage() for each in caplog.records if " runs on " in each.getMessage()] == [
        "test0 runs on scripted: the format is script"
    ]


@pytest.mark.anyio
async def test_closing_frees_the_engine_and_the_next_use_loads_again(make_llm: MakeLLM) -> None:
    async with make_llm() as llm:
        engine = llm.model
        assert not engine.closed
    assert engine.closed
    await llm.close()
    assert (await llm.generate("hi")).finished
    assert llm.model is not engine
    with llm:
        engine = llm.model
    assert engine.closed


@pytest.mark.anyio
async def test_closing_fails_what_is_under_way(make_llm: MakeLLM) -> None:
    endless = {"tokens_per_second": 200, "default": {"reply": "a ", "repeat": 4000}}
    llm = make_llm(endless)
    stream = llm.generate_iterator("hi")
    await anext(stream)
    await llm.close()
    with pytest.raises(EngineUnavailableError):
        async for _ in stream:
            pass


@pytest.mark.spec("S1-36")
def test_an_llm_that_nobody_holds_frees_its_engine(make_llm: MakeLLM, tmp_path: Any) -> None:
    make_llm().sync_generate("hi")
    llm = openllm.LLM(tmp_path / "test0.script.json")
    engine = llm.model
    del llm
    gc.collect()
    end = time.monotonic() + 5
    while not engine.closed and time.monotonic() < end:
        time.sleep(0.01)
    assert engine.closed


def _in_a_fork(llm: openllm.LLM, path: str, answers: Any) -> None:
    try:
        llm.sync_generate("hi")
    except EngineUnavailableError as error:
        answers.put(error.message)
    answers.put(openllm.LLM(path).sync_generate("hi").outputs[0].text)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_is_told_to_load_its_own(make_llm: MakeLLM, tmp_path: Any) -> None:
    llm = make_llm()
    llm.sync_generate("hi")
    context: Any = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    path = str(tmp_path / "test0.script.json")
    child = context.Process(target=_in_a_fork, args=(llm, path, answers))
    child.start()
    child.join(30)
    assert child.exitcode == 0
    assert "build the LLM in the process that uses it" in answers.get()
    assert answers.get() == "one two three four five"


@pytest.mark.anyio
async def test_vectors_have_unit_length(make_llm: MakeLLM) -> None:
    llm = make_llm()
    (one,) = await llm.embed("the cat")
    two, three = llm.sync_embed(["the cat", "a dog"])
    assert one == two != three
    assert sum(value * value for value in three) == pytest.approx(1)
