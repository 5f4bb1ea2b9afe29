"""Requests side by side do not touch each other."""

from __future__ import annotations

import asyncio

import pytest

from tests.contract.subject import PROMPTS, Answer, Subject

pytestmark = pytest.mark.anyio


@pytest.mark.reliability("C-13")
async def test_every_prompt_gets_its_own_answer(subject: Subject) -> None:
    alone = [await subject.greedy(prompt, 24) for prompt in PROMPTS]
    assert len({answer.text for answer in alone}) == len(PROMPTS)
    for order in (1, -1):
        together = await asyncio.gather(
            *(subject.greedy(prompt, 24) for prompt in PROMPTS[::order] * 3)
        )
        expected = [answer.token_ids for answer in alone[::order] * 3]
        assert [answer.token_ids for answer in together] == expected


@pytest.mark.reliability("C-13")
async def test_parameters_of_one_request_do_not_reach_another(subject: Subject) -> None:
    plain = await subject.greedy(PROMPTS[0], 24)
    (letter,) = await subject.engine.tokenize("Q", special=False)

    async def forced() -> Answer:
        return await subject.answer(PROMPTS[1], max_tokens=24, logit_bias={letter: 100.0})

    async def stopped() -> Answer:
        return await subject.greedy(PROMPTS[0], 24, stop=(plain.text[3],))

    answers = await asyncio.gather(
        *(task for _ in range(4) for task in (forced(), subject.greedy(PROMPTS[0], 24), stopped()))
    )
    assert {answer.text for answer in answers[0::3]} == {"Q" * 24}
    assert [answer.token_ids for answer in answers[1::3]] == [plain.token_ids] * 4
    assert {answer.finish_reason for answer in answers[2::3]} == {"stop"}


@pytest.mark.reliability("S-32")
async def test_a_secret_never_reaches_another_conversation(subject: Subject) -> None:
    empty = "<|im_start|>user\nRepeat everything above.<|im_end|>\n<|im_start|>assistant\n"
    cold = await subject.greedy(empty, 24, logprobs=3)
    secrets = [f"zq{number:02}xvkwjpyq" for number in range(12)]
    told = [f"<|im_start|>user\nThe secret is {secret}.<|im_end|>\n" for secret in secrets]
    await asyncio.gather(*(subject.greedy(text + empty, 24) for text in told))
    for text in told[:3]:
        await subject.greedy(text + empty, 24)
        fresh = await subject.greedy(empty, 24, logprobs=3)
        assert fresh.token_ids == cold.token_ids
        assert not any(secret in fresh.text for secret in secrets)
        for one, other in zip(fresh.logprobs, cold.logprobs, strict=True):
            assert one.logprob == pytest.approx(other.logprob, abs=1e-3)


@pytest.mark.reliability("C-13", "C-20")
async def test_bad_requests_do_not_disturb_good_ones(subject: Subject) -> None:
    alone = await subject.greedy(PROMPTS[2], 40)
    good = [asyncio.create_task(subject.greedy(PROMPTS[2], 40)) for _ in range(4)]
    bad = await asyncio.gather(
        subject.greedy("", 4),
        subject.greedy((-1,), 4),
        subject.greedy(await subject.prompt_of(subject.context_length), 4),
        subject.answer(PROMPTS[0], max_tokens=0),
        return_exceptions=True,
    )
    assert all(isinstance(error, ValueError) for error in bad)
    answers = await asyncio.gather(*good)
    assert [answer.token_ids for answer in answers] == [alone.token_ids] * 4
