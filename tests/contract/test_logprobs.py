"""Logprobs belong to the tokens beside them and form a distribution."""

from __future__ import annotations

import math

import pytest

from openllm.types import TokenLogprob
from tests.contract.subject import PROMPTS, Subject

pytestmark = pytest.mark.anyio


@pytest.mark.reliability("C-10")
@pytest.mark.parametrize("count", [0, 1, 5, 20])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
async def test_logprobs_match_their_tokens(
    subject: Subject, count: int, temperature: float
) -> None:
    answer = await subject.answer(
        subject.dice, max_tokens=12, seed=3, logprobs=count, temperature=temperature
    )
    assert [each.token_id for each in answer.logprobs] == answer.token_ids
    data = b"".join(bytes(each.bytes) for each in answer.logprobs).decode("utf-8", "replace")
    assert answer.text in (data, data.removesuffix("\ufffd"))
    assert answer.usage.completion_tokens == len(answer.logprobs)
    for each in answer.logprobs:
        check_top(each, count)


def check_top(token: TokenLogprob, count: int) -> None:
    values = [each.logprob for each in token.top]
    assert token.logprob <= 1e-6
    assert values == sorted(values, reverse=True)
    assert sum(map(math.exp, values)) <= 1 + 1e-3
    if count == 0:
        assert token.top == ()
        return
    assert count <= len(values) <= count + 1
    (chosen,) = (each for each in token.top if each.token_id == token.token_id)
    assert (chosen.logprob, chosen.bytes) == (token.logprob, token.bytes)


@pytest.mark.reliability("C-10")
async def test_the_greedy_token_is_the_likeliest(subject: Subject) -> None:
    answer = await subject.greedy(subject.dice, 12, logprobs=3)
    for each in answer.logprobs:
        assert each.token_id == each.top[0].token_id
    total = sum(each.logprob for each in answer.logprobs)
    assert answer.cumulative_logprob == pytest.approx(total, abs=1e-3)


@pytest.mark.reliability("C-10")
async def test_logprobs_do_not_depend_on_temperature_or_truncation(subject: Subject) -> None:
    plain = (await subject.answer(subject.dice, max_tokens=1, logprobs=5)).logprobs[0]
    bent = await subject.answer(subject.dice, max_tokens=1, logprobs=5, temperature=0.1, top_k=1)
    values = {each.token_id: each.logprob for each in plain.top[:5]}
    for each in bent.logprobs[0].top[:5]:
        assert each.logprob == pytest.approx(values[each.token_id], abs=1e-2)


@pytest.mark.reliability("C-10")
async def test_nothing_is_reported_unasked(subject: Subject) -> None:
    chunks = await subject.chunks(PROMPTS[0], max_tokens=4)
    assert all(chunk.logprobs is None for chunk in chunks)
