"""vLLM's outputs as chunks, from outputs that are made up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from openllm.engines.hf_tokens import TokenTable
from openllm.engines.vllm_stream import LEAST_LOGPROB, SequenceStream, merge
from openllm.errors import EngineError
from openllm.types import CompletionChunk, SamplingParams, Usage

END = 0


class Bytes:
    """A table whose tokens are bytes; token 0 ends a text."""

    def bytes_of(self, token_id: int) -> bytes:
        return bytes([token_id]) if token_id else b""


@dataclass
class Logprob:
    logprob: float


@dataclass
class Completion:
    token_ids: list[int]
    finish_reason: str | None = None
    logprobs: list[dict[int, Logprob]] | None = None


@dataclass
class Output:
    outputs: list[Completion]
    prompt_token_ids: list[int] = field(default_factory=lambda: [1, 2, 3])
    num_cached_tokens: int | None = 2


def output(text: bytes, reason: str | None = None, logprobs: Any = None) -> Output:
    return Output([Completion(list(text), reason, logprobs)])


def stream(limit: int = 100, **params: Any) -> SequenceStream:
    return SequenceStream(SamplingParams(**params), 4, limit, cast(TokenTable, Bytes()))


def test_tokens_become_text() -> None:
    sequence = stream()
    (chunk,) = sequence.take(output(b"a"))
    assert chunk == CompletionChunk(4, "a", (97,))
    assert [each.text for each in sequence.take(output(b"bc"))] == ["b", "c"]
    assert not sequence.ended


def test_the_last_chunk_counts_the_tokens() -> None:
    sequence = stream(limit=2)
    sequence.take(output(b"a"))
    (chunk,) = sequence.take(output(b"b", "length"))
    assert (chunk.finish_reason, chunk.usage) == ("length", Usage(3, 2, 2))
    assert sequence.ended


def test_the_token_that_ends_the_text_is_not_in_it() -> None:
    sequence = stream()
    sequence.take(output(b"a"))
    (chunk,) = sequence.take(output(b"b", "stop"))
    assert (chunk.text, chunk.token_ids, chunk.finish_reason) == ("", (), "stop")
    assert chunk.usage == Usage(3, 1, 2)


def test_an_end_token_may_come_with_others() -> None:
    chunks = stream().take(output(b"ab\x00", "stop"))
    assert [chunk.text for chunk in chunks] == ["a", "b", ""]
    assert chunks[-1].finish_reason == "stop"


@pytest.mark.reliability("C-03")
def test_the_stop_string_that_ends_first_wins_whatever_their_order() -> None:
    for stops in (("bcd", "c"), ("c", "bcd")):
        sequence = stream(stop=stops)
        chunks = sequence.take(output(b"abcd"))
        assert "".join(chunk.text for chunk in chunks) == "ab"
        assert sequence.ended


@pytest.mark.reliability("C-04")
def test_halves_of_characters_are_held() -> None:
    sequence = stream()
    assert sequence.take(output("é".encode()[:1])) == []
    (chunk,) = sequence.take(output("é".encode()[1:]))
    assert (chunk.text, chunk.token_ids) == ("é", tuple("é".encode()))


@pytest.mark.reliability("C-10")
def test_logprobs_are_sorted_with_the_chosen_token_among_them() -> None:
    found = {98: Logprob(-3.0), 97: Logprob(-0.1), 99: Logprob(float("-inf"))}
    (chunk,) = stream(logprobs=2).take(output(b"b", None, [found]))
    assert chunk.logprobs is not None
    (report,) = chunk.logprobs
    assert (report.token_id, report.logprob, report.bytes) == (98, -3.0, (98,))
    assert [each.token_id for each in report.top] == [97, 98, 99]
    assert report.top[-1].logprob == LEAST_LOGPROB
    assert chunk.cumulative_logprob == -3.0


def test_no_alternatives_are_reported_unasked() -> None:
    found = {98: Logprob(-3.0), 97: Logprob(-0.1)}
    (chunk,) = stream(logprobs=0).take(output(b"b", None, [found]))
    assert chunk.logprobs is not None
    assert chunk.logprobs[0].top == ()


@pytest.mark.reliability("C-09")
@pytest.mark.parametrize("reason", ["abort", "error"])
def test_a_sequence_that_was_given_up_is_an_error(reason: str) -> None:
    with pytest.raises(EngineError, match=reason):
        stream().take(output(b"", reason))


def test_an_end_that_no_token_explains_is_an_error() -> None:
    with pytest.raises(EngineError, match="before its last token"):
        stream(limit=5).take(output(b"a", "length"))


async def chunks_of(index: int, count: int) -> AsyncGenerator[CompletionChunk, None]:
    for at in range(count):
        await asyncio.sleep(0)
        yield CompletionChunk(index, str(at), finish_reason="stop" if at == count - 1 else None)


@pytest.mark.anyio
@pytest.mark.reliability("C-06")
async def test_merged_sequences_advance_together() -> None:
    found = [chunk async for chunk in merge([chunks_of(0, 3), chunks_of(1, 5)])]
    assert [chunk.text for chunk in found if chunk.index == 1] == list("01234")
    assert {chunk.index for chunk in found[:2]} == {0, 1}


@pytest.mark.anyio
async def test_the_first_error_of_merged_sequences_ends_all() -> None:
    closed = asyncio.Event()

    async def endless() -> AsyncGenerator[CompletionChunk, None]:
        try:
            while True:
                await asyncio.sleep(0)
                yield CompletionChunk(0, "a")
        finally:
            closed.set()

    async def failing() -> AsyncGenerator[CompletionChunk, None]:
        yield CompletionChunk(1, "b")
        raise EngineError("broken")

    with pytest.raises(EngineError, match="broken"):
        async for _ in merge([endless(), failing()]):
            pass
    assert closed.is_set()


@pytest.mark.anyio
@pytest.mark.reliability("F-01")
async def test_closing_merged_sequences_closes_each() -> None:
    open_streams = 0

    async def endless(index: int) -> AsyncGenerator[CompletionChunk, None]:
        nonlocal open_streams
        open_streams += 1
        try:
            while True:
                await asyncio.sleep(0)
                yield CompletionChunk(index, "a")
        finally:
            open_streams -= 1

    async with aclosing(merge([endless(0), endless(1)])) as chunks:
        await anext(chunks)
        assert open_streams == 2
    assert open_streams == 0
