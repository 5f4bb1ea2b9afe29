"""What a stream of chunks is made of."""

from __future__ import annotations

import itertools

import pytest

from tests.contract.subject import PROMPTS, Subject

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("prompt", PROMPTS)
async def test_only_the_last_chunk_of_a_sequence_ends_it(subject: Subject, prompt: str) -> None:
    chunks = await subject.chunks(prompt, max_tokens=16, temperature=0.0, ignore_eos=True)
    assert [chunk.index for chunk in chunks] == [0] * len(chunks)
    *before, last = chunks
    assert last.finish_reason == "length"
    assert last.usage is not None
    assert all(chunk.finish_reason is None and chunk.usage is None for chunk in before)


@pytest.mark.reliability("C-05")
@pytest.mark.parametrize("prompt", PROMPTS)
async def test_joined_text_is_what_its_tokens_decode_to(subject: Subject, prompt: str) -> None:
    answer = await subject.greedy(prompt, 64)
    decoded = await subject.engine.detokenize(answer.token_ids)
    # Text that ends inside a character ends in one U+FFFD or without it.
    assert answer.text in (decoded, decoded.removesuffix("\ufffd"))


async def test_token_ids_are_those_generated_and_no_others(subject: Subject) -> None:
    answer = await subject.greedy(PROMPTS[0], 16)
    assert len(answer.token_ids) == 16
    prompt = await subject.encode(PROMPTS[0])
    going_on = await subject.greedy((*prompt, *answer.token_ids[:8]), 8)
    if subject.engine.capabilities.engine != "scripted":  # A script answers; it does not go on.
        assert going_on.token_ids == answer.token_ids[8:]


async def test_text_comes_as_it_is_made(subject: Subject) -> None:
    answer = await subject.greedy(PROMPTS[0], 64)
    assert sum(bool(text) for text in answer.texts) >= 8


async def test_the_cumulative_logprob_only_falls(subject: Subject) -> None:
    chunks = await subject.chunks(PROMPTS[0], max_tokens=16, logprobs=0)
    sums = [0.0, *(chunk.cumulative_logprob for chunk in chunks)]
    assert all(after <= before for before, after in itertools.pairwise(sums))
    assert sums[-1] < 0


async def test_the_engine_says_what_it_is(subject: Subject) -> None:
    offered = subject.engine.capabilities
    assert offered.engine
    assert offered.engine_version
    assert offered.context_length == 512
    assert offered.max_concurrency == 4
    assert await subject.engine.health()
