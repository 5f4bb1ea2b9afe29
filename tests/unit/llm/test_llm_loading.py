"""When the model is loaded, how often, and when its memory goes."""

from __future__ import annotations

import asyncio
import copy
import gc
import logging
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import openllm
from openllm.engines.scripted_engine import ScriptedEngine
from openllm.errors import EngineStartError, EngineUnavailableError, OutOfMemoryError
from tests.unit.llm.conftest import MakeLLM
from tests.unit.llm.recording import RecordingEngine
from tests.waiting import until, wait_until

SLOW = {"load_seconds": 0.5, "default": {"reply": "hi"}}


@contextmanager
def held_loads() -> Iterator[None]:
    """Let no load come to its end before the context's does."""
    RecordingEngine.held = True
    try:
        yield
    finally:
        RecordingEngine.held = False


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
    llm = make_llm()
    with held_loads():
        leaver = asyncio.create_task(llm.load())
        await until(lambda: RecordingEngine.starts)
        stayer = asyncio.create_task(llm.generate("hi"))
        await asyncio.sleep(0)
        leaver.cancel()
        await asyncio.wait([leaver])
    assert (await stayer).finished
    assert leaver.cancelled()
    assert len(RecordingEngine.starts) == 1


@pytest.mark.anyio
async def test_loading_does_not_hold_up_the_callers_loop(make_llm: MakeLLM) -> None:
    llm = make_llm()
    with held_loads():
        loading = asyncio.create_task(llm.load())
        await until(lambda: RecordingEngine.starts)
        for _ in range(10):
            await asyncio.sleep(0.001)
        assert not loading.done()
    await loading


@pytest.mark.anyio
@pytest.mark.spec("S1-37")
async def test_another_model_answers_while_one_is_loaded(make_llm: MakeLLM) -> None:
    ready, llm = make_llm(), make_llm()
    await ready.load()
    RecordingEngine.free.clear()  # As when its module, and PyTorch, are imported.
    try:
        loading = asyncio.create_task(llm.load())
        assert (await ready.generate("hi")).finished
        assert not loading.done()
    finally:
        RecordingEngine.free.set()
    await loading


@pytest.mark.anyio
async def test_closing_tells_who_waits_for_the_load(make_llm: MakeLLM) -> None:
    llm = make_llm()
    with held_loads():
        waiting = [asyncio.create_task(asyncio.to_thread(getattr, llm, "model"))]
        await until(lambda: RecordingEngine.starts)
        waiting.append(asyncio.create_task(llm.generate("hi")))
        waiting.append(asyncio.create_task(anext(llm.generate_iterator("hi"))))
        await asyncio.sleep(0)
        await llm.close()
        await asyncio.wait(waiting)
    for each in waiting:
        assert isinstance(each.exception(), EngineUnavailableError)
    assert "'test0' was closed while it was being loaded" in str(waiting[0].exception())


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
    wait_until(lambda: engine.closed)


@pytest.mark.parametrize("duplicate", [pickle.dumps, copy.copy, copy.deepcopy])
def test_it_cannot_be_pickled_or_copied(make_llm: MakeLLM, duplicate: Any) -> None:
    llm = make_llm()
    with pytest.raises(TypeError, match=r"test0.* cannot be pickled or copied.* build the LLM"):
        duplicate(llm)


FORKING = """
import gc, multiprocessing, sys, openllm
from openllm.errors import EngineUnavailableError
context = multiprocessing.get_context("fork")
told = context.SimpleQueue()
def ask(llm):
    try:
        told.put(llm.sync_generate("hi", max_new_tokens=1).outputs[0].text)
    except EngineUnavailableError as error:
        told.put(error.message)
def child(work):
    process = context.Process(target=work)
    process.start()
    print(told.get(), process.join(60), process.exitcode)
llm = openllm.LLM(sys.argv[1])
child(lambda: ask(llm))
ask(llm)
print(told.get())
child(lambda: ask(llm))
child(lambda: ask(openllm.LLM(sys.argv[1])))
def drop():
    global llm
    del llm
    gc.collect()
    told.put("dropped")
child(drop)
"""


def test_a_fork_uses_models_only_if_its_parent_had_not(tmp_path: Path) -> None:
    path = tmp_path / "m.script.json"
    path.write_text('{"default": {"reply": "one two"}}')
    command = [sys.executable, "-W", "ignore", "-c", FORKING, path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    before, itself, after, own, dropped = done.stdout.splitlines()
    assert (before, itself, dropped) == ("one None 0", "one", "dropped None 0")
    for refused in (after, own):
        assert "engines do not survive that; fork before the first use, or start" in refused
        assert refused.endswith(" None 0")


@pytest.mark.anyio
async def test_vectors_have_unit_length(make_llm: MakeLLM) -> None:
    llm = make_llm()
    (one,) = await llm.embed("the cat")
    two, three = llm.sync_embed(["the cat", "a dog"])
    assert one == two != three
    assert sum(value * value for value in three) == pytest.approx(1)
