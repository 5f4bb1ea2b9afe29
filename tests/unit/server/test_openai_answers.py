"""The bytes of events, and the merging of several prompts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openllm.errors import EngineError, OverloadedError
from openllm.server.generation import Tally, collect, generate_all
from openllm.server.openai_answers import CHAT, COMPLETION, Answer, EventEncoder, to_json
from openllm.types import CompletionChunk, GenerateRequest, SamplingParams, TokenLogprob, Usage

ANSWER = Answer(id="m:1-2", created=5, model='m"', system_fingerprint="fp")
NEVER = TokenLogprob(1, "a", (97,), float("-inf"))


def end(index: int, usage: Usage | None = None) -> CompletionChunk:
    return CompletionChunk(index, "", finish_reason="length", usage=usage or Usage(3, 2, 1))


def events(data: bytes) -> list[Any]:
    lines = [line.removeprefix(b"data: ") for line in data.split(b"\n\n")]
    assert lines.pop() == b""
    return [json.loads(line) for line in lines if line != b"[DONE]"]


@pytest.mark.reliability("C-07")
def test_bytes_of_a_chat_stream() -> None:
    encoder = EventEncoder(CHAT, ANSWER, Tally(1, 1), usage=False, logprobs=False)
    head = (
        b'data: {"id":"m:1-2","object":"chat.completion.chunk","created":5,"model":"m\\"",'
        b'"system_fingerprint":"fp","choices":[{"index":0,'
    )
    tail = b',"logprobs":null,"finish_reason":null}]}\n\n'
    assert encoder.opening() == head + b'"delta":{"role":"assistant","content":""}' + tail
    assert encoder.encode(CompletionChunk(0, "")) == b""
    assert encoder.encode(CompletionChunk(0, "h\n")) == head + b'"delta":{"content":"h\\n"}' + tail
    ended = tail.replace(b'"finish_reason":null', b'"finish_reason":"length"')
    assert encoder.encode(end(0)) == head + b'"delta":{}' + ended
    assert encoder.closing() == b"data: [DONE]\n\n"


@pytest.mark.reliability("C-08")
def test_usage_of_a_stream() -> None:
    encoder = EventEncoder(COMPLETION, ANSWER, Tally(2, 2), usage=True, logprobs=False)
    for index in range(4):
        encoder.encode(end(index, Usage(10 if index < 2 else 20, 2, 1)))
    (last,) = events(encoder.closing())
    assert last["choices"] == []
    assert last["usage"] == {
        "prompt_tokens": 30,
        "completion_tokens": 8,
        "total_tokens": 38,
        "prompt_tokens_details": {"cached_tokens": 2},
    }
    (chunk,) = events(encoder.encode(CompletionChunk(3, "x")))
    assert chunk["usage"] is None
    assert chunk["choices"] == [{"index": 3, "text": "x", "logprobs": None, "finish_reason": None}]


def test_a_logprob_without_a_number() -> None:
    chunk = CompletionChunk(0, "a", logprobs=(NEVER,))
    for dialect, path in ((CHAT, ("content", 0, "logprob")), (COMPLETION, ("token_logprobs", 0))):
        encoder = EventEncoder(dialect, ANSWER, Tally(1, 1), usage=False, logprobs=True)
        (event,) = events(encoder.encode(chunk))
        value = event["choices"][0]["logprobs"]
        for key in path:
            value = value[key]
        assert value == -9999.0


@pytest.mark.reliability("C-04", "C-07")
@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_no_text_breaks_an_event(text: str) -> None:
    data = to_json(text)
    assert json.loads(data) == text
    assert len(data.decode().splitlines()) == 1


@pytest.mark.reliability("C-09")
def test_a_stream_that_is_not_complete() -> None:
    encoder = EventEncoder(CHAT, ANSWER, Tally(1, 2), usage=False, logprobs=False)
    encoder.encode(end(0))
    with pytest.raises(EngineError, match="choice 1"):
        encoder.closing()


class Prompts:
    """A served model whose answer to a prompt is its own text, letter by letter."""

    def __init__(self) -> None:
        self.running = self.most = 0

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[CompletionChunk, None]:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            for letter in str(request.prompt):
                if letter == "!":
                    raise OverloadedError("full")
                for index in range(request.params.n):
                    await asyncio.sleep(0)
                    yield CompletionChunk(index, letter)
            for index in range(request.params.n):
                yield end(index)
        finally:
            self.running -= 1


def requests(*prompts: str, n: int = 2) -> list[GenerateRequest]:
    return [
        GenerateRequest(request_id=str(i), params=SamplingParams(n=n), prompt=prompt)
        for i, prompt in enumerate(prompts)
    ]


@pytest.mark.anyio
@pytest.mark.parametrize("width", [1, 2, 9])
async def test_prompts_are_merged_in_order(width: int) -> None:
    served: Any = Prompts()
    texts = ["abc", "d", "k", "efgh", "ij"]
    tally = Tally(5, 2)
    choices = await collect(generate_all(served, requests(*texts), width), tally)
    assert [choice.text for choice in choices] == [text for text in texts for _ in range(2)]
    assert tally.usage() == Usage(15, 20, 5)
    assert served.most == min(width, 5)


@pytest.mark.anyio
async def test_one_failing_prompt_stops_the_others() -> None:
    served: Any = Prompts()
    with pytest.raises(OverloadedError):
        await collect(generate_all(served, requests("x" * 1000, "a!", "b"), 3), Tally(3, 2))
    assert served.running == 0


@pytest.mark.anyio
async def test_closing_the_merged_stream_stops_all() -> None:
    served: Any = Prompts()
    stream = generate_all(served, requests("x" * 1000, "y" * 1000), 3)
    await anext(stream)
    assert served.running == 2
    await stream.aclose()
    assert served.running == 0
