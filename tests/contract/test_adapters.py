"""LoRA adapters: every request has its own, and the model's weights stay as they are."""

from __future__ import annotations

import asyncio

import pytest

from tests.contract.adapted import NAMES, TOKENS, Adapted

pytestmark = pytest.mark.anyio


@pytest.mark.spec("S0-27", "S1-10")
@pytest.mark.parametrize("name", NAMES)
async def test_an_adapter_answers_as_the_model_it_was_added_to(adapted: Adapted, name: str) -> None:
    said = [
        (await adapted.subject.greedy(prompt, TOKENS, adapter=name)).token_ids
        for prompt in adapted.prompts
    ]
    assert said == adapted.expected[name]


async def test_adapters_differ(adapted: Adapted) -> None:
    for prompt in range(len(adapted.prompts)):
        assert len({tuple(adapted.expected[name][prompt]) for name in NAMES}) == len(NAMES)


@pytest.mark.spec("S1-12")
@pytest.mark.reliability("C-13")
async def test_adapters_side_by_side_do_not_touch_each_other(adapted: Adapted) -> None:
    """In one batch, with prompts that were read before by another adapter."""
    asked = [(prompt, name) for _ in range(3) for prompt in adapted.prompts for name in NAMES]
    for order in (1, -1):
        answers = await asyncio.gather(
            *(
                adapted.subject.greedy(prompt, TOKENS, adapter=name)
                for prompt, name in asked[::order]
            )
        )
        expected = [adapted.expected[name][adapted.prompts.index(prompt)] for prompt, name in asked]
        assert [answer.token_ids for answer in answers] == expected[::order]


@pytest.mark.reliability("C-13")
async def test_a_prompt_read_with_one_adapter_is_read_again_for_another(adapted: Adapted) -> None:
    prompt = await adapted.subject.prompt_of(200)
    fresh = {name: await adapted.subject.greedy(prompt, TOKENS, adapter=name) for name in NAMES}
    again = {
        name: await adapted.subject.greedy(prompt, TOKENS, adapter=name) for name in NAMES[::-1]
    }
    assert len({tuple(answer.token_ids) for answer in fresh.values()}) == len(NAMES)
    for name in NAMES:
        assert again[name].token_ids == fresh[name].token_ids
