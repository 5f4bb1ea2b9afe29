"""One LLM for scripts, notebooks, several event loops and threads; leaving ends the work."""

from __future__ import annotations

import asyncio
import gc
import json
import signal
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path

import pytest

import openllm
from openllm.engines.prompt_size import LONG_TEXT
from openllm.llm.bridge import the_bridge
from openllm.llm.crossing import MOST_WAITING
from openllm.prompts import ChatTemplate, Segment
from openllm.types import Message
from tests.unit.llm.conftest import MakeLLM
from tests.waiting import happens

ENDLESS = {
    "context_length": 10**6,
    "tokens_per_second": 500,
    "default": {"reply": "a ", "repeat": 10**5},
}
ECHO = {"tokens_per_second": 500, "default": {"reply": "You said {user}, {user} and {user}."}}


def echoed(text: str) -> str:
    return f"You said {text}, {text} and {text}."


def becomes_idle(llm: openllm.LLM) -> bool:
    """Whether the engine stops working, long before it would by itself."""
    return happens(lambda: not llm.model.running + llm.model.waiting)


def interrupting(seconds: float) -> threading.Timer:
    """Return a timer that does what Ctrl-C does."""
    main = threading.main_thread().ident
    return threading.Timer(seconds, signal.pthread_kill, [main, signal.SIGINT])


@pytest.mark.anyio
async def test_the_engine_works_in_a_thread_of_its_own(make_llm: MakeLLM) -> None:
    llm = make_llm()
    await llm.generate("hi")
    llm.sync_generate("hi")
    assert llm.model.threads == {"openllm"}


@pytest.mark.anyio
async def test_sync_forms_work_where_a_loop_is_running(make_llm: MakeLLM) -> None:
    llm = make_llm(ECHO)  # As in a notebook: no await, and a loop that runs.
    assert llm.sync_generate("it").outputs[0].text == echoed("it")
    assert [each.finished for each in llm.sync_generate_iterator("it")][-1]
    assert llm.tokenizer.encode("a") == [97]


def test_one_llm_serves_one_event_loop_after_the_other(make_llm: MakeLLM) -> None:
    llm = make_llm(ECHO)
    for name in ("ann", "bob"):
        assert asyncio.run(llm.generate(name)).outputs[0].text == echoed(name)


@pytest.mark.spec("S1-37")
def test_eight_threads_share_the_batch(make_llm: MakeLLM) -> None:
    llm = make_llm(ECHO)
    busiest = 0

    def ask(number: int) -> bool:
        nonlocal busiest
        name = f"n{number}"
        if number % 3 == 0:
            text = asyncio.run(llm.generate(name)).outputs[0].text
        elif number % 3 == 1:
            text = llm.sync_generate(name).outputs[0].text
        else:
            for output in llm.sync_generate_iterator(name):
                busiest = max(busiest, llm.model.running)
                text = output.outputs[0].text
        return text == echoed(name)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(64)))
    assert busiest > 1
    assert becomes_idle(llm)


@pytest.mark.anyio
@pytest.mark.spec("S1-37")
async def test_the_callers_loop_turns_while_tokens_are_made(make_llm: MakeLLM) -> None:
    llm = make_llm(ENDLESS)  # B14
    await llm.load()
    answers = asyncio.gather(*(llm.generate("hi", max_new_tokens=100) for _ in range(4)))
    turns = 0
    while not answers.done():
        await asyncio.sleep(0.001)
        turns += 1
    assert turns > 20


@pytest.mark.anyio
@pytest.mark.spec("S1-36")
@pytest.mark.parametrize("how", ["aclose", "break", "cancel", "cancel before", "timeout", "error"])
async def test_leaving_a_stream_ends_its_work(make_llm: MakeLLM, how: str) -> None:
    llm = make_llm(ENDLESS)  # B20
    await llm.load()
    begun = asyncio.Event()

    async def read() -> None:
        async with aclosing(llm.generate_iterator("hi")) as stream:
            async for _ in stream:
                begun.set()
                if how == "break":
                    break
                if how == "error":
                    raise ZeroDivisionError

    if how == "aclose":
        stream = llm.generate_iterator("hi")
        await anext(stream)
        assert llm.model.running == 1
        await stream.aclose()
    elif how == "timeout":
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(llm.generate("hi"), 0.1)
    else:
        task = asyncio.create_task(read())
        if how == "cancel before":
            await asyncio.sleep(0)
        else:
            await begun.wait()
        if how.startswith("cancel"):
            task.cancel()
        await asyncio.wait([task])
        if how == "error":
            assert isinstance(task.exception(), ZeroDivisionError)
    assert becomes_idle(llm)


@pytest.mark.spec("S1-36")
@pytest.mark.parametrize("how", ["close", "break", "drop", "interrupt"])
def test_leaving_a_sync_stream_ends_its_work(make_llm: MakeLLM, how: str) -> None:
    llm = make_llm(ENDLESS)
    stream = llm.sync_generate_iterator("hi")
    next(stream)
    assert llm.model.running == 1
    if how == "close":
        stream.close()
    elif how == "break":
        for _ in stream:
            break
        del stream
    elif how == "drop":
        del stream
    else:
        timer = interrupting(0.1)
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012
            timer.start()  # Not before: it ends the tests that do not expect it.
            for _ in stream:
                pass
        timer.join()
    assert becomes_idle(llm)


@pytest.mark.spec("S1-36")
def test_an_interrupted_sync_call_ends_its_work(make_llm: MakeLLM) -> None:
    llm = make_llm(ENDLESS)
    _ = llm.model
    timer = interrupting(0.2)
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012
        timer.start()
        llm.sync_generate("hi")
    timer.join()
    assert becomes_idle(llm)


@pytest.mark.spec("S1-36")
def test_nothing_is_left_of_hundreds_of_requests(make_llm: MakeLLM) -> None:
    llm = make_llm(ENDLESS)
    bridge = the_bridge()

    async def some(count: int) -> None:
        async def one(number: int) -> None:
            stream = llm.generate_iterator(f"{number}", max_new_tokens=5)
            async for _ in stream:
                if number % 3 == 0:
                    break
            await stream.aclose()

        tasks = [asyncio.create_task(one(number)) for number in range(count)]
        await asyncio.sleep(0.05)
        for task in tasks[::4]:
            task.cancel()
        await asyncio.wait(tasks)

    def used() -> int:
        llm.model.requests.clear()
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        asyncio.run(some(200))
        assert becomes_idle(llm)
        before = used()
        for _ in range(3):
            asyncio.run(some(200))
        assert becomes_idle(llm)
        assert used() - before < 200_000
    finally:
        tracemalloc.stop()
    assert happens(lambda: not bridge._tasks)


@pytest.mark.anyio
@pytest.mark.spec("S1-37")
async def test_long_conversations_are_rendered_out_of_the_loops_way(
    make_llm: MakeLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []

    def render(self: ChatTemplate, messages: Sequence[Message]) -> tuple[Segment, ...]:
        threads.append(threading.current_thread().name)
        return plainly(self, messages)

    plainly = ChatTemplate.render
    monkeypatch.setattr(ChatTemplate, "render", render)
    llm = make_llm({"context_length": 10**6, "default": {"reply": "{user}"}})
    for text in ("a", "a" * (LONG_TEXT + 1)):
        await llm.generate(messages=[{"role": "user", "content": text}], max_new_tokens=1)
    assert threads[0] == "openllm" != threads[1]


@pytest.mark.anyio
async def test_a_sync_call_where_engines_work_is_refused(make_llm: MakeLLM) -> None:
    llm = make_llm()

    async def ask() -> None:
        llm.sync_generate("hi")

    with pytest.raises(RuntimeError, match="would wait for itself"):
        await the_bridge().call(ask())


@pytest.mark.anyio
async def test_a_reader_that_lags_holds_the_stream_back() -> None:
    made = 0

    async def count() -> AsyncGenerator[int, None]:
        nonlocal made
        for number in range(10 * MOST_WAITING):
            made = number
            yield number
            await asyncio.sleep(0)

    async with aclosing(the_bridge().stream(count())) as stream:
        assert await anext(stream) == 0
        await asyncio.sleep(0.2)
        assert made < 3 * MOST_WAITING
        assert [number async for number in stream] == list(range(1, 10 * MOST_WAITING))


@pytest.mark.anyio
async def test_what_the_other_side_raises_arrives_behind_the_items() -> None:
    async def fail() -> AsyncGenerator[int, None]:
        yield 1
        raise LookupError("over there")

    stream = the_bridge().stream(fail())
    assert await anext(stream) == 1
    with pytest.raises(LookupError, match="over there"):
        await anext(stream)
    waiting = the_bridge().sync_stream(fail())
    assert next(waiting) == 1
    with pytest.raises(LookupError, match="over there"):
        next(waiting)


SCRIPT = """
import sys, threading, openllm
llm = openllm.LLM(sys.argv[1], **({"threads": 1} if sys.argv[1] == "demo" else {}))
more = dict(max_new_tokens=500, ignore_eos=True)
%s
print("end", flush=True)
"""
ENDS: dict[str, str] = {
    "unused": "",
    "used": "llm.sync_generate('hi', max_new_tokens=2)",
    "abandoned": "stream = llm.sync_generate_iterator('hi', **more); next(stream)",
    "async": "import asyncio; asyncio.run(llm.generate('hi', max_new_tokens=2))",
    "async abandoned": (
        "import asyncio; stream = llm.generate_iterator('hi', **more); asyncio.run(anext(stream))"
    ),
    "thread": (
        "import queue; got = queue.Queue(); stream = llm.sync_generate_iterator('hi', **more)\n"
        "threading.Thread(target=lambda: got.put(next(stream)), daemon=True).start(); got.get()"
    ),
}


@pytest.mark.parametrize("model", ["script", "demo"])
@pytest.mark.parametrize("name", ENDS)
def test_a_script_ends_when_it_is_done(tmp_path: Path, name: str, model: str) -> None:
    path = tmp_path / "slow.script.json"
    slow = '{"tokens_per_second": 20, "default": {"reply": "a ", "repeat": 3000}}'
    path.write_text(slow)
    source = SCRIPT % ENDS[name]
    command = [sys.executable, "-W", "error", "-c", source, "demo" if model == "demo" else path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "end\n")


def test_an_abandoned_stream_does_not_hold_up_threads_at_the_exit(tmp_path: Path) -> None:
    path = tmp_path / "slow.script.json"
    path.write_text('{"tokens_per_second": 20, "default": {"reply": "a ", "repeat": 3000}}')
    source = SCRIPT % (
        "import time; from concurrent.futures import ThreadPoolExecutor\n"
        "stream = llm.sync_generate_iterator('hi', **more); next(stream)\n"
        "def wait():\n"
        "    end = time.monotonic() + 10\n"
        "    while llm.model.running and time.monotonic() < end: time.sleep(0.01)\n"
        "    print(llm.model.running, flush=True)\n"
        "pool = ThreadPoolExecutor(); pool.submit(wait)\n"
    )
    command = [sys.executable, "-W", "error", "-c", source, path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "end\n0\n")


def test_an_engine_is_closed_in_time_when_the_process_ends(tmp_path: Path) -> None:
    path = tmp_path / "short.script.json"
    path.write_text("{}")
    source = """
import asyncio, atexit, sys, openllm, openllm.engines
from openllm.engines.scripted_engine import ScriptedEngine
class Engine(ScriptedEngine):
    async def start(self):
        atexit.register(print, "the end of what loading started")
        await super().start()
    async def close(self):
        await asyncio.to_thread(print, "closed")
        await super().close()
kind = openllm.engines.EngineKind("__main__:Engine", ("script",))
openllm.engines.ENGINES["scripted"] = kind
llm = openllm.LLM(sys.argv[1])
llm.sync_generate("hi")
"""
    command = [sys.executable, "-W", "error", "-c", source, path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    said = "closed\nthe end of what loading started\n"
    assert (done.returncode, done.stderr, done.stdout) == (0, "", said)


def test_a_thread_goes_on_after_the_main_thread(tmp_path: Path) -> None:
    path = tmp_path / "slow.script.json"
    path.write_text('{"tokens_per_second": 50, "default": {"reply": "a ", "repeat": 20}}')
    source = SCRIPT % (
        "begun = threading.Event()\n"
        "def read():\n"
        "    count = sum(begun.set() is None for _ in llm.sync_generate_iterator('hi'))\n"
        "    print(count, flush=True)\n"
        "threading.Thread(target=read).start(); begun.wait()\n"
    )
    command = [sys.executable, "-W", "error", "-c", source, path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "end\n41\n")


def test_a_reader_whose_loop_is_gone_ends_its_work(tmp_path: Path) -> None:
    path = tmp_path / "slow.script.json"
    path.write_text(json.dumps(ENDLESS))
    source = SCRIPT % (
        "import asyncio, time\n"
        "loop = asyncio.new_event_loop()\n"
        "stream = llm.generate_iterator('hi')\n"
        "loop.run_until_complete(anext(stream))\n"
        "waiting = loop.create_task(anext(stream))\n"
        "loop.run_until_complete(asyncio.sleep(0))\n"
        "loop.close()\n"
        "end = time.monotonic() + 20\n"
        "while llm.model.running and time.monotonic() < end: time.sleep(0.01)\n"
        "print(llm.model.running)\n"
    )
    command = [sys.executable, "-c", source, path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "0\nend\n")
