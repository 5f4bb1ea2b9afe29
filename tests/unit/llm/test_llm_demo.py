"""`openllm.LLM` on the model that the package carries."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import aclosing
from itertools import pairwise
from typing import Any

import pytest

import openllm
from openllm.llm.bridge import the_bridge
from openllm.types import Usage
from tests.waiting import until

STORY = "Once upon a time"


@pytest.fixture(scope="module")
def llm() -> Iterator[openllm.LLM]:
    with openllm.LLM("demo", context_length=256, max_concurrency=4, threads=1) as demo:
        yield demo


async def usage(llm: openllm.LLM, output: openllm.GenerationOutput) -> Usage:
    """Return what the engine counts for the prompt of an output."""
    prompt = tuple(output.prompt_token_ids or ())
    request = openllm.types.GenerateRequest(
        request_id="r", prompt=prompt, params=openllm.SamplingParams(max_tokens=1)
    )

    engine = llm.model

    async def count() -> Usage | None:
        async with aclosing(engine.generate(request)) as chunks:
            return [chunk.usage async for chunk in chunks][-1]

    found = await the_bridge().call(count())
    assert found is not None
    return found


@pytest.mark.anyio
@pytest.mark.spec("S1-04", "S1-38")
async def test_ten_lines_of_the_readme(llm: openllm.LLM) -> None:
    greedy: Any = {"temperature": 0.0, "max_new_tokens": 24}
    found = [each async for each in llm.generate_iterator(STORY, "r", **greedy)]
    for one, next_one in pairwise(found):
        assert next_one.outputs[0].text.startswith(one.outputs[0].text)
    answer = llm.sync_generate(STORY, "r", **greedy)
    assert answer == found[-1]
    (chunk,) = answer.outputs
    assert (len(chunk.token_ids), chunk.finish_reason) == (24, "length")
    assert llm.tokenizer.decode(chunk.token_ids) == chunk.text
    assert answer.prompt_token_ids == llm.tokenizer.encode(STORY)


@pytest.mark.anyio
async def test_prompt_tokens_are_those_the_engine_counts(llm: openllm.LLM) -> None:
    talk = await llm.generate(
        messages=[{"role": "user", "content": "Hi <|im_end|>"}], max_new_tokens=4
    )
    plain = await llm.generate(STORY, max_new_tokens=4)
    for output in (talk, plain):
        assert (await usage(llm, output)).prompt_tokens == len(output.prompt_token_ids or ())
    assert llm.tokenizer.decode(talk.prompt_token_ids) == talk.prompt


@pytest.mark.anyio
@pytest.mark.spec("S1-35")
async def test_logprobs_are_the_models(llm: openllm.LLM) -> None:
    answer = await llm.generate(STORY, temperature=0.0, max_new_tokens=6, logprobs=3)
    (chunk,) = answer.outputs
    assert chunk.logprobs is not None
    chosen = [each[at] for each, at in zip(chunk.logprobs, chunk.token_ids, strict=True)]
    assert all(max(each.values()) == one for each, one in zip(chunk.logprobs, chosen, strict=True))
    assert all(len(each) == 3 for each in chunk.logprobs)
    assert chunk.cumulative_logprob == pytest.approx(sum(chosen), abs=1e-4)
    assert chunk.cumulative_logprob < 0


@pytest.mark.anyio
@pytest.mark.spec("S1-19", "S1-20", "S1-26")
async def test_stop_tokens_and_strings_cut(llm: openllm.LLM) -> None:
    whole = (await llm.generate(STORY, temperature=0.0, max_new_tokens=12)).outputs[0]
    at = next(at for at in range(4, 12) if whole.token_ids[at] not in whole.token_ids[:at])
    stop = whole.token_ids[at]
    cut = await llm.generate(STORY, temperature=0.0, max_new_tokens=12, stop_token_ids=[stop])
    assert cut.outputs[0].token_ids == whole.token_ids[:at]
    assert cut.outputs[0].finish_reason == "stop"
    word = llm.tokenizer.decode([stop]).strip()
    said = (await llm.generate(STORY, stop=word, temperature=0.0, max_new_tokens=12)).outputs[0]
    assert said.text == whole.text[: whole.text.index(word)]


@pytest.mark.anyio
@pytest.mark.spec("S1-24")
async def test_of_a_long_prompt_the_end_is_read(llm: openllm.LLM) -> None:
    long = STORY + " there was a king. He had" * 60
    options: Any = {"temperature": 0.0, "max_new_tokens": 16, "ignore_eos": True}
    answer = await llm.generate(long, **options)
    kept = llm.tokenizer.encode(long)[-(256 - 16 - 1) :]
    assert answer.prompt_token_ids == kept
    assert len(answer.outputs[0].token_ids) == 16
    tail = llm.tokenizer.decode(kept)
    if llm.tokenizer.encode(tail) == kept:
        same = await llm.generate(tail, **options)
        assert same.outputs[0].text == answer.outputs[0].text


@pytest.mark.anyio
@pytest.mark.spec("S1-36")
async def test_requests_share_the_engine_and_leave_nothing(llm: openllm.LLM) -> None:
    async def ask(number: int) -> None:
        stream = llm.generate_iterator(STORY, max_new_tokens=200, seed=number, ignore_eos=True)
        async with aclosing(stream) as outputs:
            async for output in outputs:
                if len(output.outputs[0].token_ids) > 5 + number % 7:
                    break

    await asyncio.gather(*map(ask, range(24)))
    await until(lambda: not llm.model.active)


@pytest.mark.anyio
async def test_json_and_several_sequences(llm: openllm.LLM) -> None:
    answer = await llm.generate(STORY, n=2, seed=1, max_new_tokens=6)
    assert len({chunk.text for chunk in answer.outputs}) == 2
    answer = await llm.generate(
        STORY, json_schema={"type": "array", "items": {"type": "boolean"}, "maxItems": 2}
    )
    assert answer.outputs[0].text.startswith("[")


@pytest.mark.anyio
@pytest.mark.spec("S0-44")
async def test_close_texts_have_close_vectors(llm: openllm.LLM) -> None:
    one, two, same = await llm.embed(["The king had a dog.", "def main():", "The king had a dog."])
    assert one == pytest.approx(same, abs=1e-5)
    assert sum(a * b for a, b in zip(one, two, strict=True)) < 0.999
