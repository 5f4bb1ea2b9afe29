"""Plain completions through the openai SDK."""

from __future__ import annotations

import re
from typing import Any

import openai
import pytest

from tests.api.conftest import TEXT, Server

pytestmark = pytest.mark.anyio


@pytest.mark.spec("S3-19", "S2-34")
async def test_plain_answer_has_openais_shape(sdk: openai.AsyncOpenAI) -> None:
    answer = await sdk.completions.create(model="demo", prompt="hi", max_tokens=64)
    assert re.fullmatch(r"demo:[0-9a-f]{8}-[0-9a-f]{12}", answer.id)
    assert (answer.object, answer.model) == ("text_completion", "demo")
    (choice,) = answer.choices
    assert (choice.text, choice.index, choice.finish_reason, choice.logprobs) == (
        TEXT,
        0,
        "stop",
        None,
    )
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 6


@pytest.mark.reliability("C-06", "C-07", "C-20")
@pytest.mark.parametrize("echo", [False, True])
async def test_several_prompts_keep_their_order(sdk: openai.AsyncOpenAI, echo: bool) -> None:
    prompts = ["hi", "long", "slow", "sample", "odd"]
    body: Any = {
        "model": "demo",
        "prompt": prompts,
        "n": 2,
        "temperature": 0,
        "max_tokens": 4,
        "echo": echo,
    }
    plain = await sdk.completions.create(**body)
    assert [choice.index for choice in plain.choices] == list(range(10))
    singles = [await sdk.completions.create(**{**body, "prompt": prompt}) for prompt in prompts]
    alone = [choice.text for single in singles for choice in single.choices]
    assert [choice.text for choice in plain.choices] == alone
    if echo:
        assert all(text.startswith(prompts[i // 2]) for i, text in enumerate(alone))
    assert plain.usage is not None
    assert plain.usage.prompt_tokens == sum(single.usage.prompt_tokens for single in singles)
    assert plain.usage.completion_tokens == sum(
        single.usage.completion_tokens for single in singles
    )

    stream = await sdk.completions.create(
        **body, stream=True, stream_options={"include_usage": True}
    )
    texts, finishes, chunks = [""] * 10, [0] * 10, []
    async for chunk in stream:
        chunks.append(chunk)
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            finishes[choice.index] += choice.finish_reason is not None
    assert texts == alone
    assert finishes == [1] * 10
    assert chunks[-1].choices == []
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert getattr(chunks[-1].usage, name) == getattr(plain.usage, name)


@pytest.mark.reliability("C-20")
@pytest.mark.parametrize("prompt", [" ", [104, 105], [[104, 105], [104]], ["hi"], "\u2028"])
async def test_prompt_forms(sdk: openai.AsyncOpenAI, prompt: Any) -> None:
    answer = await sdk.completions.create(model="demo", prompt=prompt)
    assert {choice.text for choice in answer.choices} == {TEXT}


async def test_echo_of_token_ids(sdk: openai.AsyncOpenAI) -> None:
    answer = await sdk.completions.create(model="demo", prompt=[[104, 105], [106]], echo=True)
    assert [choice.text for choice in answer.choices] == ["hi" + TEXT, "j" + TEXT]


@pytest.mark.reliability("C-20")
async def test_token_id_outside_the_vocabulary(sdk: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await sdk.completions.create(model="demo", prompt=[10**6])
    assert caught.value.param == "prompt"


@pytest.mark.reliability("C-10")
@pytest.mark.parametrize("stop", [None, "four"])
async def test_logprobs(sdk: openai.AsyncOpenAI, stop: str | None) -> None:
    body: Any = {"model": "demo", "prompt": "hi", "logprobs": 2, "stop": stop}
    answer = await sdk.completions.create(**body)
    (choice,) = answer.choices
    logprobs = choice.logprobs
    assert logprobs is not None
    assert logprobs.tokens is not None
    assert logprobs.text_offset is not None
    for token, offset in zip(logprobs.tokens, logprobs.text_offset, strict=True):
        # The token that lies across the beginning of a stop string is longer than its text.
        assert choice.text[offset : offset + len(token)] == token[: len(choice.text) - offset]
    assert logprobs.token_logprobs is not None
    assert all(value <= 0 for value in logprobs.token_logprobs if value is not None)
    assert logprobs.top_logprobs is not None
    assert all(
        token in top for token, top in zip(logprobs.tokens, logprobs.top_logprobs, strict=True)
    )
    parts = [
        each.choices[0].logprobs
        async for each in await sdk.completions.create(**body, stream=True)
        if each.choices[0].logprobs
    ]
    for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        streamed = [value for part in parts for value in getattr(part, name)]
        assert streamed == getattr(logprobs, name)


async def test_one_bad_prompt_fails_the_request(server: Server, sdk: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError):
        await sdk.completions.create(model="demo", prompt=["hi", "word " * 600, "slow"])
    assert server.fleet.engines["demo"].running == 0
