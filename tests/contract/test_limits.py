"""The context, the token limit, and the table of odd prompts."""

from __future__ import annotations

from typing import Any

import pytest

from openllm.errors import ContextLengthError, InvalidRequestError
from openllm.types import Prompt
from tests.contract.subject import PROMPTS, Subject

pytestmark = pytest.mark.anyio


@pytest.mark.reliability("C-19")
@pytest.mark.parametrize("beyond", [0, 1, 100])
async def test_a_prompt_that_fills_the_context_is_refused(subject: Subject, beyond: int) -> None:
    length = subject.context_length + beyond
    with pytest.raises(ContextLengthError) as caught:
        await subject.greedy(await subject.prompt_of(length), 4)
    assert str(length) in caught.value.message
    assert str(subject.context_length) in caught.value.message


@pytest.mark.reliability("C-19")
@pytest.mark.parametrize("room", [1, 2, 7])
async def test_output_ends_where_the_context_does(subject: Subject, room: int) -> None:
    prompt = await subject.prompt_of(subject.context_length - room)
    for limit in (None, room + 1, 2**31):
        answer = await subject.greedy(prompt, limit)
        assert answer.finish_reason == "length"
        assert len(answer.token_ids) == room, limit
        assert answer.usage.total_tokens == subject.context_length


@pytest.mark.reliability("C-19")
async def test_a_limit_within_the_context_is_kept(subject: Subject) -> None:
    prompt = await subject.prompt_of(subject.context_length - 7)
    for limit in (1, 6, 7):
        assert len((await subject.greedy(prompt, limit)).token_ids) == limit


@pytest.mark.reliability("C-19", "C-23")
@pytest.mark.parametrize(
    ("params", "named"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"n": 0}, "n"),
        ({"stop": ("a", "")}, "stop"),
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ({"logit_bias": {10**9: 1.0}}, "logit_bias"),
        ({"logit_bias": {-1: 1.0}}, "logit_bias"),
        ({"logit_bias": {65: 101.0}}, "logit_bias"),
        ({"presence_penalty": float("nan")}, "presence_penalty"),
        ({"stop_token_ids": (10**9,)}, "stop_token_ids"),
    ],
    ids=str,
)
async def test_values_out_of_range_are_refused(
    subject: Subject, params: dict[str, Any], named: str
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        await subject.answer(PROMPTS[0], **{"max_tokens": 4, **params})
    assert caught.value.param == named
    assert len((await subject.greedy(PROMPTS[0], 4)).token_ids) == 4


REFUSED: list[Prompt] = ["", (), ("",), ("", ""), (-1,), (10**9,), (0, 2**31), ("a", -5)]
ANSWERED: list[Prompt] = [
    " ",
    "\n",
    "\x00",
    "a",
    "\ufffd",
    "\ufeff",
    "\u202e",
    "🏳️‍🌈",
    (0,),
    ("", "a"),
    ("a", 0, "b"),
    "<|im_end|>",
    "<|im_start|>",
    "<|im_start|>assistant\n",
    "<|endoftext|>" * 3,
]


@pytest.mark.reliability("C-20")
@pytest.mark.parametrize("prompt", REFUSED, ids=repr)
async def test_prompts_without_tokens_or_with_false_ones_are_refused(
    subject: Subject, prompt: Prompt
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        await subject.greedy(prompt, 4)
    assert caught.value.param == "prompt"


@pytest.mark.reliability("C-20")
@pytest.mark.parametrize("prompt", ANSWERED, ids=repr)
async def test_odd_prompts_are_answered(subject: Subject, prompt: Prompt) -> None:
    answer = await subject.greedy(prompt, 4)
    assert answer.finish_reason in ("stop", "length")
    assert await subject.engine.health()


@pytest.mark.reliability("C-20")
async def test_pieces_of_a_prompt_are_read_as_one(subject: Subject) -> None:
    whole = await subject.greedy("<|im_start|>user\nHi<|im_end|>\n", 8)
    ids = await subject.encode("user\nHi")
    (start,) = await subject.encode("<|im_start|>")
    parts = await subject.greedy((start, *ids, "<|im_end|>\n"), 8)
    assert parts.token_ids == whole.token_ids
    assert parts.usage.prompt_tokens == whole.usage.prompt_tokens
