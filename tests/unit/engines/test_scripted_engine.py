"""The scripted engine says exactly what its script says, when it says it, and frees its places."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from openllm.errors import ContextLengthError, EngineUnavailableError
from openllm.types import CompletionChunk
from tests.unit.engines.scripting import collect, request, run_jumping, say, scripted

pytestmark = pytest.mark.anyio

THUMB = list("👍".encode())


def texts(chunks: list[CompletionChunk]) -> list[str]:
    return [chunk.text for chunk in chunks]


async def test_tokens_are_exact() -> None:
    script = {"default": {"tokens": ["exact", " tok", "ens"], "repeat": 2}}
    async with scripted(script) as engine:
        chunks = await collect(engine)
        ids = [token_id for chunk in chunks for token_id in chunk.token_ids]
        assert texts(chunks) == ["exact", " tok", "ens"] * 2 + [""]
        assert [await engine.detokenize([token_id]) for token_id in ids] == texts(chunks)[:-1]
    assert [chunk.finish_reason for chunk in chunks] == [None] * 6 + ["stop"]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 6


@pytest.mark.reliability("C-04")
async def test_broken_utf8_is_held_and_ends_in_one_replacement_character() -> None:
    script = {"default": {"tokens": ["ok ", THUMB[:2], THUMB[2:], "!", THUMB[:3]]}}
    async with scripted(script) as engine:
        assert texts(await collect(engine)) == ["ok ", "👍", "!", "\ufffd"]
        assert texts(await collect(engine, max_tokens=2)) == ["ok ", "\ufffd"]
        chunks = await collect(engine, max_tokens=2, logprobs=0)
    assert [t.bytes for c in chunks for t in c.logprobs or ()] == [
        tuple(b"ok "),
        tuple(THUMB[:2]),
    ]


@pytest.mark.reliability("C-01", "C-03")
async def test_stop_strings_cut_text_tokens_logprobs_and_usage_alike() -> None:
    script = {"default": {"tokens": ["The ", "qu", "ick br", "own", " f", "ox", " jumps"]}}
    async with scripted(script) as engine:
        chunks = await collect(engine, stop=("own fox",), logprobs=0)
        assert "".join(texts(chunks)) == "The quick br"
        inside = await collect(engine, stop=("n fox", "wn fo"))
    assert sum(len(chunk.token_ids) for chunk in chunks) == 3
    assert sum(len(chunk.logprobs or ()) for chunk in chunks) == 3
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 3
    assert "".join(texts(inside)) == "The quick bro"
    assert sum(len(chunk.token_ids) for chunk in inside) == 4  # "own" lies across the cut.


@pytest.mark.reliability("C-02")
async def test_a_tail_that_might_have_become_a_stop_string_is_sent() -> None:
    async with scripted({"default": {"tokens": ["br", "own", " f"]}}) as engine:
        assert texts(await collect(engine, stop=("own fox",))) == ["br", "own f"]
        assert texts(await collect(engine, stop=("own fox",), max_tokens=2)) == ["br", "own"]


@pytest.mark.reliability("C-09")
@pytest.mark.parametrize(
    ("limit", "reason", "text"), [(2, "length", "ab"), (3, "length", "abc"), (4, "stop", "abc")]
)
async def test_the_end_of_the_text_takes_a_token_of_its_own(
    limit: int, reason: str, text: str
) -> None:
    async with scripted({"default": {"tokens": ["a", "b", "c"]}}) as engine:
        chunks = await collect(engine, max_tokens=limit)
    assert ("".join(texts(chunks)), chunks[-1].finish_reason) == (text, reason)


async def test_ignore_eos_starts_the_reply_over() -> None:
    async with scripted({"default": {"reply": "ab cd"}}) as engine:
        chunks = await collect(engine, ignore_eos=True, max_tokens=5)
    assert texts(chunks) == ["ab", " cd", "ab", " cd", "ab"]
    assert chunks[-1].finish_reason == "length"


async def test_stop_token_ids_end_the_text_unreported() -> None:
    async with scripted({"default": {"tokens": ["a", "b", "c"]}}) as engine:
        chunks = await collect(engine, stop_token_ids=(ord("c"),))
    assert "".join(texts(chunks)) == "ab"
    assert chunks[-1].finish_reason == "stop"


@pytest.mark.reliability("C-19")
async def test_the_context_bounds_prompt_and_output() -> None:
    async with scripted({"default": {"reply": "x", "repeat": 50}}, context_length=20) as engine:
        assert engine.capabilities.context_length == 20
        chunks = await collect(engine, "p" * 15, max_tokens=2**31)
        assert ("".join(texts(chunks)), chunks[-1].finish_reason) == ("x" * 5, "length")
        with pytest.raises(ContextLengthError, match=r"20 tokens.*holds 20.*at most 19"):
            await collect(engine, "p" * 20)


async def test_a_context_larger_than_the_scripts_is_cut(caplog: pytest.LogCaptureFixture) -> None:
    async with scripted({"context_length": 30}, context_length=40) as engine:
        assert engine.capabilities.context_length == 30
    assert "context_length 40 is more than the" in caplog.text


@pytest.mark.reliability("C-08")
async def test_usage_tells_how_much_of_a_conversation_was_read_before() -> None:
    async with scripted({"default": {"reply": "fine"}}) as engine:
        counts = []
        for prompt in ("abcde", "abXde", "abcde, and", "zz"):
            usage = (await collect(engine, prompt))[-1].usage
            assert usage is not None
            counts.append((usage.prompt_tokens, usage.cached_tokens))
    assert counts == [(5, 0), (5, 0), (10, 5), (2, 0)]


def test_tokens_come_at_the_scripts_rate() -> None:
    script = {
        "tokens_per_second": 10,
        "prefill_tokens_per_second": 100,
        "default": {"reply": "x", "repeat": 20},
    }

    async def main() -> list[float]:
        loop = asyncio.get_running_loop()
        async with scripted(script) as engine:
            start = loop.time()
            async with aclosing(engine.generate(request("p" * 50))) as chunks:
                return [loop.time() - start async for _ in chunks]

    times = run_jumping(main())
    assert times == pytest.approx([0.5 + at / 10 for at in range(21)], abs=0.002)


def test_sequences_share_the_engines_steps() -> None:
    script = {"tokens_per_second": 10, "default": {"reply": "x", "repeat": 10}}

    async def main() -> tuple[float, list[str]]:
        loop = asyncio.get_running_loop()
        async with scripted(script, max_concurrency=50) as engine:
            start = loop.time()
            answers = await asyncio.gather(*(say(engine) for _ in range(50)))
            return loop.time() - start, answers

    seconds, answers = run_jumping(main())
    assert answers == ["x" * 10] * 50
    assert seconds == pytest.approx(1.0, abs=0.01)


def test_sequences_wait_for_a_place_in_the_order_of_arrival() -> None:
    script = {"tokens_per_second": 10, "default": {"reply": "x", "repeat": 9}}

    async def main() -> list[tuple[int, float]]:
        loop = asyncio.get_running_loop()
        done: list[tuple[int, float]] = []
        async with scripted(script, max_concurrency=4) as engine:

            async def one(number: int, n: int) -> None:
                await collect(engine, n=n)
                done.append((number, round(loop.time(), 1)))

            tasks = [asyncio.create_task(one(at, n)) for at, n in enumerate((3, 2, 1, 1))]
            await asyncio.sleep(0.05)
            assert (engine.running, engine.waiting) == (4, 3)
            await asyncio.gather(*tasks)
        return done

    assert run_jumping(main()) == [(0, 0.9), (1, 1.9), (2, 1.9), (3, 1.9)]


async def test_more_sequences_than_places_still_finish() -> None:
    async with scripted({"default": {"reply": "ok"}}, max_concurrency=2) as engine:
        chunks = await collect(engine, n=5)
    assert sorted(chunk.index for chunk in chunks if chunk.finish_reason) == [0, 1, 2, 3, 4]


@pytest.mark.reliability("F-01", "C-22")
@pytest.mark.parametrize("steps", [0, 1, 2, 5])
async def test_closing_a_stream_frees_its_places_at_once(steps: int) -> None:
    script = {"default": {"reply": "x", "repeat": 3000}}
    async with scripted(script, max_concurrency=3) as engine:
        stream = engine.generate(request(n=2))
        other = engine.generate(request(n=2))
        for _ in range(steps):
            await anext(stream)
            await anext(other)
        if steps:
            assert (engine.running, engine.waiting) == (3, 1)
        await stream.aclose()
        await other.aclose()
        assert (engine.running, engine.waiting) == (0, 0)
        assert await say(engine, max_tokens=3) == "xxx"


@pytest.mark.reliability("F-01")
async def test_a_waiting_request_that_is_cancelled_leaves_the_queue() -> None:
    script = {"default": {"reply": "x", "faults": [{"kind": "pause"}]}}
    async with scripted(script, max_concurrency=1) as engine:
        tasks = [asyncio.create_task(collect(engine)) for _ in range(3)]
        await asyncio.sleep(0)
        assert (engine.running, engine.waiting) == (1, 2)
        tasks[1].cancel()
        await asyncio.wait([tasks[1]])
        assert (engine.running, engine.waiting) == (1, 1)
        tasks[0].cancel()
        await asyncio.wait([tasks[0]])
        assert (engine.running, engine.waiting) == (1, 0)
        tasks[2].cancel()
        await asyncio.wait([tasks[2]])
        assert (engine.running, engine.waiting) == (0, 0)


async def test_a_thousand_streams_share_time() -> None:
    script = {"default": {"reply": "x", "repeat": 20}}
    async with scripted(script, max_concurrency=1000) as engine:
        order: list[int] = []

        async def one(number: int) -> str:
            text = ""
            async with aclosing(engine.generate(request())) as chunks:
                async for chunk in chunks:
                    text += chunk.text
                    order.append(number)
            return text

        answers = await asyncio.gather(*(one(number) for number in range(1000)))
    assert answers == ["x" * 20] * 1000
    for step in range(20):  # Nobody gets a second token before all have the first.
        assert len(set(order[step * 1000 : (step + 1) * 1000])) == 1000


async def test_an_engine_that_is_not_started_or_closed_refuses() -> None:
    async with scripted({}) as engine:
        assert await engine.health()
        await engine.close()
        await engine.close()
        assert not await engine.health()
        with pytest.raises(EngineUnavailableError, match="not loaded"):
            await collect(engine)


async def test_closing_ends_the_streams_with_an_error() -> None:
    async with scripted({"default": {"reply": "x", "repeat": 4000}}) as engine:
        stream = engine.generate(request())
        assert (await anext(stream)).text == "x"
        await engine.close()
        with pytest.raises(EngineUnavailableError, match="was stopped"):
            async for _ in stream:
                pass
