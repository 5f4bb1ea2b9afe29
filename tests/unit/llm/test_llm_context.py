"""Prompts against the context: what is kept, what is refused."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from openllm.errors import ContextLengthError, InvalidRequestError
from tests.unit.llm.conftest import MakeLLM

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
SCRIPT = {"context_length": 20, "default": {"reply": "one two three four", "repeat": 20}}


@pytest.mark.anyio
@pytest.mark.spec("S1-24")
@pytest.mark.parametrize("length", [14, 15, 16, 19, 20, 50])
async def test_of_a_long_prompt_the_end_is_kept(
    make_llm: MakeLLM, caplog: pytest.LogCaptureFixture, length: int
) -> None:
    llm = make_llm(SCRIPT)
    with caplog.at_level(logging.WARNING, "openllm.llm"):
        answer = await llm.generate(LETTERS[:length], "mine", max_new_tokens=4)
    kept = min(length, 20 - 4 - 1)
    assert answer.prompt == LETTERS[:length]
    assert answer.prompt_token_ids == list(map(ord, LETTERS[length - kept : length]))
    assert len(answer.outputs[0].token_ids) == 4
    warned = f"request mine: of {length} prompt tokens the last 15 are kept; the context is 20"
    assert [record.getMessage() for record in caplog.records] == [warned] * (length > 15)
    # What the model reads is what is reported.
    prompt = llm.model.requests[-1].prompt
    assert prompt == (LETTERS[:length] if length <= 15 else tuple(answer.prompt_token_ids))


@pytest.mark.anyio
@pytest.mark.spec("S1-23", "S1-24")
@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        ("a", {"max_new_tokens": 19}, "max_new_tokens=19 leaves no room .* at most 18"),
        ("a", {"max_new_tokens": 2**31}, "leaves no room"),
        ("a", {"max_new_tokens": 9, "context_length": 10}, "holds 10 tokens; give at most 8"),
        (LETTERS[:20], {}, "the prompt has 20 tokens and .* holds 20; .* give max_new_tokens"),
        (LETTERS[:9], {"context_length": 9}, "has 9 tokens and .* holds 9"),
        ("a", {"context_length": 21}, "context_length=21 is more than the 20 tokens"),
    ],
)
async def test_impossible_sizes_are_refused(
    make_llm: MakeLLM, prompt: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidRequestError, match=message):  # B16
        await make_llm(SCRIPT).generate(prompt, **options)


@pytest.mark.anyio
@pytest.mark.spec("S1-23", "S1-25")
async def test_the_context_is_the_models_unless_given(make_llm: MakeLLM) -> None:
    async def made(llm: Any, **options: Any) -> tuple[int, str]:  # B2
        (chunk,) = (await llm.generate("hello", **options)).outputs
        return len(chunk.token_ids), chunk.finish_reason

    assert await made(make_llm(SCRIPT)) == (15, "length")
    assert await made(make_llm(SCRIPT, context_length=10)) == (5, "length")
    assert await made(make_llm(SCRIPT), context_length=8) == (3, "length")
    assert await made(make_llm(SCRIPT), max_new_tokens=14) == (14, "length")
    with pytest.raises(ContextLengthError, match="at most 8"):
        await made(make_llm(SCRIPT, context_length=10), max_new_tokens=9)
