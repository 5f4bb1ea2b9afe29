"""Sampling parameters are honoured: greedy, seeds, truncation, biases, penalties."""

from __future__ import annotations

from typing import Any

import pytest

from openllm.errors import UnsupportedError
from openllm.types import Prompt
from tests.contract.subject import PROMPTS, Subject

pytestmark = pytest.mark.anyio


@pytest.mark.reliability("C-23")
@pytest.mark.parametrize("prompt", PROMPTS[:3])
async def test_greedy_is_the_same_every_time(subject: Subject, prompt: str) -> None:
    found = {tuple((await subject.greedy(prompt, 24, seed=seed)).token_ids) for seed in range(4)}
    assert len(found) == 1


@pytest.mark.reliability("C-23")
async def test_the_likeliest_token_alone_is_greedy(subject: Subject) -> None:
    greedy = await subject.greedy(subject.dice, 16)
    for params in ({"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}):
        answer = await subject.answer(subject.dice, max_tokens=16, temperature=1.0, **params)
        assert answer.token_ids == greedy.token_ids, params


@pytest.mark.reliability("C-11", "C-23")
async def test_a_seed_repeats(subject: Subject) -> None:
    async def sampled(seed: int) -> tuple[int, ...]:
        return tuple((await subject.answer(subject.dice, max_tokens=16, seed=seed)).token_ids)

    first = [await sampled(seed) for seed in range(8)]
    assert first == [await sampled(seed) for seed in range(8)]
    assert len(set(first)) >= 7


@pytest.mark.reliability("C-23")
async def test_without_a_seed_answers_differ(subject: Subject) -> None:
    answers = [await subject.answer(subject.dice, max_tokens=16) for _ in range(12)]
    # A model that has learnt a story by heart tells it 7 times in 100.
    assert len({tuple(answer.token_ids) for answer in answers}) >= 3


@pytest.mark.reliability("C-23")
async def test_top_k_keeps_the_k_likeliest(subject: Subject) -> None:
    first = (await subject.greedy(subject.dice, 1, logprobs=3)).logprobs[0]
    likeliest = {each.token_id for each in first.top}
    drawn = await subject.answers(subject.dice, max_tokens=1, top_k=3, n=4, seed=1)
    for seed in range(2, 12):
        drawn += await subject.answers(subject.dice, max_tokens=1, top_k=3, n=4, seed=100 * seed)
    found = {token_id for answer in drawn for token_id in answer.token_ids}
    assert found <= likeliest
    assert len(found) >= 2


@pytest.mark.reliability("C-23")
async def test_a_bias_forces_and_bans(subject: Subject) -> None:
    (letter,) = await subject.engine.tokenize("Q", special=False)
    forced = await subject.answer(PROMPTS[0], max_tokens=5, logit_bias={letter: 100.0})
    assert (forced.token_ids, forced.text) == ([letter] * 5, "QQQQQ")
    first = (await subject.greedy(PROMPTS[0], 1)).token_ids[0]
    banned = await subject.greedy(PROMPTS[0], 12, logit_bias={first: -100.0})
    assert first not in banned.token_ids


@pytest.mark.reliability("C-23")
@pytest.mark.parametrize("name", ["presence_penalty", "frequency_penalty"])
async def test_a_penalty_undoes_a_bias_once_the_token_has_appeared(
    subject: Subject, name: str
) -> None:
    prompt, letter, bias = await biased(subject)
    params: dict[str, Any] = {"logit_bias": {letter: bias}}
    free = await subject.greedy(prompt, 2, **params)
    assert free.token_ids == [letter, letter]
    held = await subject.greedy(prompt, 2, **params, **{name: 2.0})
    assert held.token_ids[0] == letter
    assert held.token_ids[1:] != [letter]


async def biased(subject: Subject) -> tuple[str, int, float]:
    """Return a prompt, a token, and a bias that just makes it follow, and follow itself."""
    for text in "QZJX":
        (letter,) = await subject.engine.tokenize(text, special=False)
        for prompt in PROMPTS:
            first = await behind(subject, prompt, letter)
            second = await behind(subject, (prompt, letter), letter)
            if second + 1.0 > first + 0.1:
                return prompt, letter, second + 1.0
    raise AssertionError("no prompt will do")


async def behind(subject: Subject, prompt: Prompt, token_id: int) -> float:
    """Return by how much a token is less likely than the likeliest, as a difference of logits."""
    forced = await subject.greedy(prompt, 1, logprobs=1, logit_bias={token_id: 100.0})
    (made,) = forced.logprobs
    assert made.token_id == token_id
    return made.top[0].logprob - made.logprob


@pytest.mark.reliability("C-23")
@pytest.mark.parametrize(
    "params", [{"json_schema": {"type": "object"}}, {"grammar": 'root ::= "a"'}]
)
async def test_structure_is_followed_or_refused(
    subject: Subject, params: dict[str, object]
) -> None:
    if subject.engine.capabilities.structured_output:
        answer = await subject.answer(PROMPTS[0], max_tokens=8, **params)
        assert answer.text[:1] in ("{", "a")
        return
    with pytest.raises(UnsupportedError) as caught:
        await subject.answer(PROMPTS[0], max_tokens=8, **params)
    assert caught.value.param in params
