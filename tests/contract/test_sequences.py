"""Several sequences of one request."""

from __future__ import annotations

from contextlib import aclosing

import pytest

from openllm.errors import InvalidRequestError
from tests.contract.subject import PROMPTS, Subject, request

pytestmark = pytest.mark.anyio


@pytest.mark.reliability("C-06")
@pytest.mark.parametrize("n", [2, 3, 4])
async def test_each_sequence_is_complete(subject: Subject, n: int) -> None:
    answers = await subject.answers(subject.dice, n=n, max_tokens=12, seed=5, ignore_eos=True)
    assert [len(answer.token_ids) for answer in answers] == [12] * n
    assert [answer.finish_reason for answer in answers] == ["length"] * n
    assert [answer.usage.completion_tokens for answer in answers] == [12] * n
    assert len({answer.usage.prompt_tokens for answer in answers}) == 1
    assert len({tuple(answer.token_ids) for answer in answers}) == n


@pytest.mark.reliability("C-06")
async def test_more_sequences_than_places_are_made_or_refused(subject: Subject) -> None:
    n = subject.engine.capabilities.max_concurrency + 2
    try:
        answers = await subject.answers(subject.dice, n=n, max_tokens=12, ignore_eos=True)
    except InvalidRequestError as error:
        refused = error.param
        answers = []
    else:
        refused = None
    assert refused == "n" or [len(answer.token_ids) for answer in answers] == [12] * n


@pytest.mark.reliability("C-06")
async def test_sequence_i_uses_seed_plus_i(subject: Subject) -> None:
    answers = await subject.answers(subject.dice, n=3, max_tokens=12, seed=40)
    alone = [await subject.answer(subject.dice, max_tokens=12, seed=40 + at) for at in range(3)]
    assert [answer.token_ids for answer in answers] == [answer.token_ids for answer in alone]


@pytest.mark.reliability("C-06")
async def test_greedy_sequences_are_equal(subject: Subject) -> None:
    answers = await subject.answers(PROMPTS[0], n=3, max_tokens=12, temperature=0.0)
    assert len({tuple(answer.token_ids) for answer in answers}) == 1


@pytest.mark.reliability("C-06")
async def test_sequences_advance_together(subject: Subject) -> None:
    n = subject.engine.capabilities.max_concurrency
    seen: set[int] = set()
    async with aclosing(
        subject.engine.generate(request(PROMPTS[0], n=n, max_tokens=400, ignore_eos=True))
    ) as stream:
        async for chunk in stream:
            seen.add(chunk.index)
            if len(seen) == n or chunk.finish_reason:
                break
    assert len(seen) == n


@pytest.mark.reliability("C-03", "C-06")
async def test_a_sequence_that_stops_leaves_the_others_running(subject: Subject) -> None:
    plain = await subject.answers(subject.dice, n=4, max_tokens=16, seed=9)
    stop = plain[1].token_ids[3]
    answers = await subject.answers(
        subject.dice, n=4, max_tokens=16, seed=9, stop_token_ids=(stop,)
    )
    for before, after in zip(plain, answers, strict=True):
        if stop in before.token_ids:
            at = before.token_ids.index(stop)
            assert (after.token_ids, after.finish_reason) == (before.token_ids[:at], "stop")
        else:
            assert (after.token_ids, after.finish_reason) == (before.token_ids, "length")
