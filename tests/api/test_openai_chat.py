"""Chat completions through the openai SDK."""

from __future__ import annotations

import re
import time
from typing import Any

import openai
import pytest

from tests.api.conftest import TEXT, Server, chat

pytestmark = pytest.mark.anyio


async def stream_text(sdk: openai.AsyncOpenAI, **fields: Any) -> tuple[list[str], list[Any]]:
    """Return the text of each choice and all chunks of a streamed chat."""
    stream = await sdk.chat.completions.create(**fields, stream=True)
    chunks = [chunk async for chunk in stream]
    texts = [""] * fields.get("n", 1)
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    return texts, chunks


@pytest.mark.spec("S3-17", "S3-18", "S2-34")
@pytest.mark.parametrize("prefix", ["/v1", "/v1/", "/openai/v1"])
async def test_plain_answer_has_openais_shape(server: Server, prefix: str) -> None:
    async with server.sdk(prefix) as sdk:
        answer = await sdk.chat.completions.create(**chat())
    assert re.fullmatch(r"demo:[0-9a-f]{8}-[0-9a-f]{12}", answer.id)
    assert (answer.object, answer.model, answer.system_fingerprint) == (
        "chat.completion",
        "demo",
        "fp_test",
    )
    assert abs(answer.created - time.time()) < 60
    (choice,) = answer.choices
    assert (choice.index, choice.finish_reason, choice.logprobs) == (0, "stop", None)
    assert (choice.message.role, choice.message.content, choice.message.refusal) == (
        "assistant",
        TEXT,
        None,
    )
    usage = answer.usage
    assert usage is not None
    assert usage.completion_tokens == 6
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.prompt_tokens_details is not None
    assert 0 <= usage.prompt_tokens_details.cached_tokens <= usage.prompt_tokens


@pytest.mark.spec("S3-22")
@pytest.mark.reliability("C-08")
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"n": 3, "temperature": 1.5, "seed": 5, "text": "sample"},
        {"stop": ["four"]},
        {"max_tokens": 2},
        {"text": "odd"},
        {"logprobs": True, "top_logprobs": 3},
        {"logprobs": True, "stop": "three", "n": 2},
    ],
)
async def test_stream_equals_plain(sdk: openai.AsyncOpenAI, fields: dict[str, Any]) -> None:
    body = chat(fields.pop("text", "hi"), **fields)
    plain = await sdk.chat.completions.create(**body)
    texts, chunks = await stream_text(sdk, **body, stream_options={"include_usage": True})
    assert texts == [choice.message.content for choice in plain.choices]
    finishes = {c.index: c.finish_reason for k in chunks for c in k.choices if c.finish_reason}
    assert finishes == {choice.index: choice.finish_reason for choice in plain.choices}
    streamed = chunks[-1].usage
    assert plain.usage is not None
    assert (streamed.prompt_tokens, streamed.completion_tokens, streamed.total_tokens) == (
        plain.usage.prompt_tokens,
        plain.usage.completion_tokens,
        plain.usage.total_tokens,
    )
    for choice in plain.choices:
        tokens = [
            token
            for chunk in chunks
            for each in chunk.choices
            if each.index == choice.index and each.logprobs
            for token in each.logprobs.content
        ]
        assert tokens == (choice.logprobs.content if choice.logprobs else [])


@pytest.mark.reliability("C-06", "C-07")
async def test_stream_of_several_choices(sdk: openai.AsyncOpenAI) -> None:
    body = chat("sample", n=4, temperature=1.5, seed=1)
    texts, chunks = await stream_text(sdk, **body, stream_options={"include_usage": True})
    assert len({chunk.id for chunk in chunks}) == 1
    assert len({(chunk.created, chunk.model, chunk.system_fingerprint) for chunk in chunks}) == 1
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len(set(texts)) > 1
    for index in range(4):
        mine = [c for chunk in chunks for c in chunk.choices if c.index == index]
        assert [c.delta.role for c in mine] == ["assistant"] + [None] * (len(mine) - 1)
        assert not mine[0].delta.content
        assert [c.finish_reason is not None for c in mine] == [False] * (len(mine) - 1) + [True]
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 80


async def test_no_usage_chunk_unless_asked_for(sdk: openai.AsyncOpenAI) -> None:
    _, chunks = await stream_text(sdk, **chat())
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)
    assert all("usage" not in chunk.model_fields_set for chunk in chunks)


@pytest.mark.spec("S3-23", "S3-24", "S3-26")
@pytest.mark.reliability("C-23")
async def test_sampling_fields_reach_the_engine(sdk: openai.AsyncOpenAI) -> None:
    async def texts(**fields: Any) -> list[str | None]:
        answer = await sdk.chat.completions.create(**chat("sample", **fields))
        return [choice.message.content for choice in answer.choices]

    assert await texts(temperature=0) == [" a" * 20]
    assert await texts(temperature=2, extra_body={"top_k": 1}) == [" a" * 20]
    assert await texts(temperature=2, top_p=0.1) == [" a" * 20]
    assert await texts(temperature=2, extra_body={"min_p": 0.9}) == [" a" * 20]
    assert await texts(temperature=1, seed=7) == await texts(temperature=1, seed=7)
    assert len({*await texts(temperature=1, n=16)}) > 1
    assert await texts(temperature=0, max_tokens=3) == [" a" * 3]
    assert await texts(temperature=0, max_tokens=9, max_completion_tokens=2) == [" a" * 2]
    (penalised,) = await texts(temperature=0, frequency_penalty=2)
    assert penalised is not None
    assert " b" in penalised
    (penalised,) = await texts(temperature=0, presence_penalty=2)
    assert penalised is not None
    assert " b" in penalised
    assert await texts(temperature=0, stop=" a") == [""]


@pytest.mark.spec("S3-25")
@pytest.mark.reliability("C-10")
async def test_logprobs(sdk: openai.AsyncOpenAI) -> None:
    body = chat("sample", temperature=0, logprobs=True, top_logprobs=2)
    answer = await sdk.chat.completions.create(**body)
    (choice,) = answer.choices
    assert choice.logprobs is not None
    tokens = choice.logprobs.content
    assert tokens is not None
    assert answer.usage is not None
    assert len(tokens) == answer.usage.completion_tokens
    assert b"".join(bytes(token.bytes or ()) for token in tokens).decode() == choice.message.content
    for token in tokens:
        assert token.logprob <= 0
        tops = [top.logprob for top in token.top_logprobs]
        assert len(tops) >= 2
        assert tops == sorted(tops, reverse=True)
        assert token.token in {top.token for top in token.top_logprobs}
    bare = await sdk.chat.completions.create(**chat("sample", logprobs=True))
    assert bare.choices[0].logprobs is not None
    assert bare.choices[0].logprobs.content is not None
    assert all(token.top_logprobs == [] for token in bare.choices[0].logprobs.content)


@pytest.mark.spec("S3-25")
async def test_logit_bias(sdk: openai.AsyncOpenAI, server: Server) -> None:
    (token_id,) = await server.fleet.tokenize("demo", " c", special=False)
    body = chat("sample", temperature=0, max_tokens=5, logit_bias={str(token_id): 100})
    answer = await sdk.chat.completions.create(**body)
    assert answer.choices[0].message.content == " c" * 5


@pytest.mark.reliability("C-19")
async def test_prompt_longer_than_the_context(sdk: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await sdk.chat.completions.create(**chat("word " * 600))
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "messages")
    assert "512" in str(caught.value)
    answer = await sdk.chat.completions.create(**chat("long", max_tokens=2**31 - 1))
    assert answer.choices[0].finish_reason == "stop"
    answer = await sdk.chat.completions.create(**chat("slow", max_tokens=2**31 - 1, n=1))
    assert answer.choices[0].finish_reason in ("stop", "length")


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
        [{"role": "system", "content": "be brief"}, {"role": "user", "content": ""}],
        [{"role": "developer", "content": "be brief"}, {"role": "user", "content": "hi"}],
        [{"role": "user", "content": "hi", "name": "ann"}],
        [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": None, "tool_calls": None},
            {"role": "user", "content": "hi"},
        ],
    ],
)
async def test_message_forms(sdk: openai.AsyncOpenAI, messages: Any) -> None:
    answer = await sdk.chat.completions.create(model="demo", messages=messages)
    assert answer.choices[0].message.content == TEXT


async def test_a_reply_can_be_sent_back_as_the_sdk_dumps_it(sdk: openai.AsyncOpenAI) -> None:
    first = await sdk.chat.completions.create(**chat())
    history = [*chat()["messages"], first.choices[0].message.model_dump()]
    again: Any = [*history, {"role": "user", "content": "hi"}]
    answer = await sdk.chat.completions.create(model="demo", messages=again)
    assert answer.choices[0].message.content == TEXT


@pytest.mark.spec("S0-06")
async def test_a_request_names_its_model_or_gets_the_first(http: Any) -> None:
    body = chat()
    del body["model"]
    assert (await http.post("/v1/chat/completions", json=body)).json()["model"] == "demo"
    reply = await http.post("/v1/chat/completions", json=chat(model="mute"))
    assert reply.json()["model"] == "mute"


async def test_unknown_model(sdk: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        await sdk.chat.completions.create(**{**chat(), "model": "nope"})
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


async def test_harmless_fields_are_accepted(sdk: openai.AsyncOpenAI) -> None:
    extra = {"tools": [], "best_of": 1, "suffix": "", "functions": [], "audio": None}
    answer = await sdk.chat.completions.create(
        **chat(n=1, store=False, user="u", service_tier="auto", metadata={"a": "b"}),
        modalities=["text"],
        prompt_cache_key="k",
        safety_identifier="s",
        tool_choice="none",
        response_format={"type": "text"},
        extra_body=extra,
    )
    assert answer.choices[0].message.content == TEXT


@pytest.mark.spec("S3-21")
async def test_models(sdk: openai.AsyncOpenAI) -> None:
    models = [model async for model in sdk.models.list()]
    assert [model.id for model in models] == ["demo", "slow", "reading", "mute"]
    one = await sdk.models.retrieve("slow")
    assert (one.id, one.object, one.created, one.owned_by) == (
        "slow",
        "model",
        1_700_000_000,
        "openllm",
    )
    with pytest.raises(openai.NotFoundError):
        await sdk.models.retrieve("a/b")
