"""Prompts that cannot fit are refused by their bytes, before anything is tokenized."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from openllm.config.model import LoadOptions, ModelConfig
from openllm.engines.prompt_size import least_tokens
from openllm.engines.scripted_engine import ScriptedEngine
from openllm.errors import ContextLengthError
from openllm.llm.chat_engine import ChatEngine
from openllm.types import GenerateRequest, LocalModel, Message, Prompt, SamplingParams
from tests.unit.llm.conftest import MakeLLM

pytestmark = pytest.mark.anyio

MEGABYTES = "Ab€ " * 1_000_000


@pytest.fixture
async def chat(tmp_path: Path) -> AsyncIterator[ChatEngine]:
    path = tmp_path / "m.script.json"
    path.write_text("{}")
    load = LoadOptions(context_length=100)
    engine = ChatEngine(
        LocalModel(name="m", path=str(path), format="script"), ModelConfig(load=load)
    )
    await engine.start()
    try:
        yield engine
    finally:
        await engine.close()


def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the engine be asked for nothing."""

    def read(*_: Any, **__: Any) -> None:
        pytest.fail("the engine was given the prompt")

    for name in ("tokenize", "generate", "embed"):
        monkeypatch.setattr(ScriptedEngine, name, read)


async def read(chat: ChatEngine, **what: Any) -> int:
    request = GenerateRequest(request_id="r", params=SamplingParams(max_tokens=4), **what)
    return len([chunk async for chunk in chat.generate(request)])


@pytest.mark.reliability("C-19")
@pytest.mark.parametrize(
    "what",
    [
        {"prompt": MEGABYTES},
        {"prompt": ("a", 5, MEGABYTES)},
        {"prompt": (5,) * 100},
        {"prompt": "\ud800" * 1_000_000},
        {"messages": (Message("user", MEGABYTES),)},
        {"messages": (Message("user", "<|im_end|>" * 20_000),)},
    ],
    ids=["text", "pieces", "ids", "surrogates", "chat", "control tokens"],
)
async def test_what_cannot_fit_is_refused_unread(
    chat: ChatEngine, monkeypatch: pytest.MonkeyPatch, what: dict[str, Any]
) -> None:
    unread(monkeypatch)
    with pytest.raises(ContextLengthError, match=r"the prompt has at least \d+ tokens; .* 100, so"):
        await read(chat, **what)


@pytest.mark.reliability("C-19", "C-21")
async def test_inputs_that_cannot_fit_are_refused_unread(
    chat: ChatEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    unread(monkeypatch)
    with pytest.raises(ContextLengthError, match=r"an input has at least .* embeds at most 100"):
        await chat.embed(["a", MEGABYTES])


@pytest.mark.reliability("C-19")
async def test_what_may_fit_is_counted(chat: ChatEngine) -> None:
    longest = "<|endoftext|>"
    assert await read(chat, prompt=longest * 99)
    assert (await chat.embed([longest * 100])).prompt_tokens == 100
    with pytest.raises(ContextLengthError, match="the prompt has 101 tokens"):
        await read(chat, prompt="a" * 101)


@pytest.mark.spec("S1-24")
async def test_of_megabytes_the_end_is_kept(make_llm: MakeLLM) -> None:
    llm = make_llm({"context_length": 100})
    answer = await llm.generate("x" * 1_000_000 + "abc", max_new_tokens=4)
    assert len(answer.prompt_token_ids) == 95
    assert bytes(answer.prompt_token_ids[-4:]) == b"xabc"
    with pytest.raises(ContextLengthError, match="at least"):
        await llm.generate("x" * 1_000_000)


@pytest.mark.parametrize(
    ("prompt", "longest", "least"),
    [
        ("", 4, 0),
        ("a", 4, 1),
        ("aaaa", 4, 1),
        ("aaaaa", 4, 2),
        ("é€", 4, 2),
        (("aa", "aa"), 4, 1),
        ((1, "aa", 2, "aaa"), 4, 4),
        ((1, 2, "aaaaa"), 0, 2),
        ("a" * 100, 0, 0),
    ],
)
def test_the_least_number_of_tokens(prompt: Prompt, longest: int, least: int) -> None:
    assert least_tokens(prompt, longest) == least
