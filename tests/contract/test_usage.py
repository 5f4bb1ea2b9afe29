"""Tokens are counted, and the reason for the end is the true one."""

from __future__ import annotations

import pytest

from tests.contract.subject import PROMPTS, Subject

pytestmark = pytest.mark.anyio


@pytest.mark.reliability("C-08")
@pytest.mark.parametrize("prompt", PROMPTS)
async def test_prompt_tokens_are_those_of_the_tokenizer(subject: Subject, prompt: str) -> None:
    usage = (await subject.greedy(prompt, 4)).usage
    assert usage.prompt_tokens == len(await subject.encode(prompt))
    assert 0 <= usage.cached_tokens < usage.prompt_tokens
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


@pytest.mark.reliability("C-08", "C-09")
@pytest.mark.parametrize("limit", [1, 2, 17])
async def test_the_limit_counts_generated_tokens(subject: Subject, limit: int) -> None:
    answer = await subject.greedy(PROMPTS[1], limit)
    assert answer.finish_reason == "length"
    assert answer.usage.completion_tokens == len(answer.token_ids) == limit


@pytest.mark.reliability("C-09")
async def test_the_end_of_text_token_stops_and_is_not_shown(subject: Subject) -> None:
    (end,) = await subject.encode("<|im_end|>")
    answer = await subject.greedy(PROMPTS[1], 8, logit_bias={end: 100.0})
    assert (answer.text, answer.token_ids, answer.finish_reason) == ("", [], "stop")
    assert answer.usage.completion_tokens <= 1


@pytest.mark.reliability("C-08")
async def test_a_conversations_next_turn_reuses_its_prompt(subject: Subject) -> None:
    said = "This is long enough to be worth keeping. " * 6
    first = f"<|im_start|>user\n{said}<|im_end|>\n"
    opening = await subject.greedy(first + "<|im_start|>assistant\n", 4)
    other = await subject.greedy("Nothing of the kind, a prompt of its own.", 4)
    following = await subject.greedy(
        first + "<|im_start|>assistant\n<|im_end|>\n<|im_start|>user\nGo on.<|im_end|>\n", 4
    )
    kept = opening.usage.prompt_tokens - 1
    assert following.usage.cached_tokens >= kept - kept % subject.cache_block
    assert other.usage.cached_tokens <= 1


@pytest.mark.reliability("C-08")
async def test_the_same_request_counts_the_same(subject: Subject) -> None:
    counts = set()
    for _ in range(3):
        usage = (await subject.greedy(PROMPTS[2], 9, stop=("\x01",))).usage
        counts.add((usage.prompt_tokens, usage.completion_tokens))
    assert len(counts) == 1
