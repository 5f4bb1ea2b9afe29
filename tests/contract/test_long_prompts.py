"""What cannot fit is known by its bytes; what might is read while other requests go on."""

from __future__ import annotations

import asyncio

import pytest

from openllm.engines.prompt_size import check_prompt, is_long, least_tokens
from openllm.errors import ContextLengthError
from tests.contract.subject import PROMPTS, Subject

pytestmark = pytest.mark.anyio

LONG = [
    "The quick brown fox jumps over the lazy dog. " * 400,
    " " * 20_000,
    "\n" * 20_000,
    "\u2581" * 7_000,
    "床前明月光" * 2_000,
    "👩‍👩‍👧‍👦" * 1_000,
    "e\u0301" * 7_000,
    "\x00\x01\x02\x03" * 5_000,
    "<|im_start|>user\n<|im_end|>" * 400,
]


@pytest.mark.reliability("C-19")
@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("text", [*PROMPTS, *LONG], ids=lambda text: repr(text[:12]))
async def test_no_text_has_fewer_tokens_than_its_bytes_say(
    subject: Subject, text: str, special: bool
) -> None:
    longest = subject.engine.capabilities.longest_token
    assert longest > 0
    ids = await subject.engine.tokenize(text, special=special)
    assert 0 < least_tokens(text, longest) <= len(ids)


@pytest.mark.reliability("C-19")
async def test_the_longest_token_counts_for_one(subject: Subject) -> None:
    """The bound is no tighter than the vocabulary, and not so loose that it refuses nothing."""
    longest = subject.engine.capabilities.longest_token
    assert longest <= 256
    with pytest.raises(ContextLengthError, match=r"at least \d+ tokens"):
        check_prompt("a" * 1_000_000, subject.engine.capabilities, "m")
    check_prompt("a" * (subject.context_length - 1), subject.engine.capabilities, "m")


@pytest.mark.reliability("C-19")
async def test_a_long_text_is_refused_while_others_run(subject: Subject) -> None:
    text = "naïve words " * 20_000
    assert is_long(text)
    alone = await subject.greedy(PROMPTS[1], 30)
    beside = asyncio.create_task(subject.greedy(PROMPTS[1], 30))
    with pytest.raises(ContextLengthError, match=r"the prompt has \d+ tokens"):
        await subject.greedy(text, 4)
    with pytest.raises(ContextLengthError):
        await subject.greedy((*(await subject.encode("a")), text), 4)
    assert (await beside).token_ids == alone.token_ids
    assert await subject.engine.health()
