"""Stops, characters, limits and errors of a real llama.cpp."""

from __future__ import annotations

import pytest

from openllm.engines.llamacpp_engine import LlamaCppEngine
from openllm.errors import ContextLengthError, InvalidRequestError
from openllm.types import Usage
from tests.unit.engines.llamas import collect, greedy, say, say_all

pytestmark = pytest.mark.anyio

BICYCLES = 'root ::= "🚲"+'


@pytest.mark.spec("S0-20", "S3-23")
@pytest.mark.reliability("C-01", "C-03")
async def test_a_stop_string_cuts_the_same_text_short(llama: LlamaCppEngine) -> None:
    plain = await greedy(llama, "Hello", 48)
    for start, length in ((5, 1), (8, 3), (20, 7)):
        stop = plain.text[start : start + length]
        said = await greedy(llama, "Hello", 48, stop=(stop, "\x00never"))
        assert said.text == plain.text[: plain.text.index(stop)]
        assert said.finish == ["stop"]
        assert said.usage == Usage(
            said.usage.prompt_tokens, len(said.ids), said.usage.cached_tokens
        )
        assert said.ids == plain.ids[: len(said.ids)]


@pytest.mark.reliability("C-03")
async def test_a_stop_in_the_prompt_does_not_count(llama: LlamaCppEngine) -> None:
    plain = await greedy(llama, "STOP here", 8)
    assert (await greedy(llama, "STOP here", 8, stop=("STOP",))).text == plain.text


@pytest.mark.reliability("C-02")
async def test_text_held_for_a_stop_is_not_lost_at_the_limit(llama: LlamaCppEngine) -> None:
    plain = await greedy(llama, "Hello", 6)
    said = await greedy(llama, "Hello", 6, stop=(plain.text[-3:] + "\x00",))
    assert (said.text, said.finish) == (plain.text, ["length"])
    assert said.usage.completion_tokens == 6


async def test_a_stop_token_ends_one_sequence_of_several(llama: LlamaCppEngine) -> None:
    plain = await say_all(llama, "Hello", n=3, seed=1, max_tokens=24)
    stop = plain[1].ids[4]
    said = await say_all(llama, "Hello", n=3, seed=1, max_tokens=24, stop_token_ids=(stop,))
    for one, other in zip(said, plain, strict=True):
        expected = other.ids[: other.ids.index(stop)] if stop in other.ids else other.ids
        assert one.ids == expected
        assert one.finish == (["stop"] if stop in other.ids else ["length"])


@pytest.mark.reliability("C-04")
async def test_a_character_of_several_tokens_comes_whole(llama: LlamaCppEngine) -> None:
    chunks = await collect(llama, "Hi", max_tokens=12, temperature=0.0, grammar=BICYCLES)
    assert [chunk.text for chunk in chunks if chunk.text] == ["🚲"] * 3
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 12


@pytest.mark.reliability("C-04")
@pytest.mark.parametrize("limit", [1, 2, 3, 5, 7])
async def test_a_character_cut_at_the_limit_is_dropped(llama: LlamaCppEngine, limit: int) -> None:
    said = await greedy(llama, "Hi", limit, grammar=BICYCLES)
    assert (said.text, said.finish) == ("🚲" * (limit // 4), ["length"])
    assert said.usage.completion_tokens == limit


@pytest.mark.reliability("C-04")
async def test_bytes_of_logprobs_joined_are_the_text(llama: LlamaCppEngine) -> None:
    said = await greedy(llama, "Hi", 8, grammar=BICYCLES, logprobs=0)
    assert b"".join(bytes(each.bytes) for each in said.logprobs) == "🚲🚲".encode()
    said = await greedy(llama, "Hi", 24, logprobs=0)
    assert b"".join(bytes(each.bytes) for each in said.logprobs) == said.text.encode()


@pytest.mark.reliability("C-05")
async def test_joined_chunks_are_what_the_tokens_decode_to(llama: LlamaCppEngine) -> None:
    said = await greedy(llama, "Hello", 64)
    assert said.text == await llama.detokenize(said.ids)


@pytest.mark.reliability("C-09", "C-19")
async def test_without_a_limit_the_context_is_the_end(llama: LlamaCppEngine) -> None:
    prompt = tuple([40] * 500)
    said = await say(llama, prompt, temperature=0.0, ignore_eos=True)
    assert (said.finish, said.usage.total_tokens) == (["length"], 512)


@pytest.mark.reliability("C-19")
async def test_a_prompt_that_is_too_long_is_refused_with_both_numbers(
    llama: LlamaCppEngine,
) -> None:
    for length in (512, 513, 4000):
        with pytest.raises(ContextLengthError) as caught:
            await say(llama, tuple([40] * length), max_tokens=1)
        assert str(length) in caught.value.message
        assert "512" in caught.value.message
    assert len((await say(llama, tuple([40] * 511), max_tokens=9)).ids) == 1


@pytest.mark.reliability("C-20", "S-24")
@pytest.mark.parametrize("prompt", ["", (), ("",), (380,), (-1,), (2**31,), ("a", 2**63)])
async def test_odd_prompts_are_refused(llama: LlamaCppEngine, prompt: object) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        await say(llama, prompt, max_tokens=1)  # type: ignore[arg-type]
    assert caught.value.param == "prompt"


async def test_more_sequences_than_slots_are_refused(llama: LlamaCppEngine) -> None:
    with pytest.raises(
        InvalidRequestError, match=r"n=5 is more than the 4 .*max_concurrency"
    ) as caught:
        await say_all(llama, n=5, max_tokens=1)
    assert caught.value.param == "n"


@pytest.mark.spec("S3-29")
@pytest.mark.reliability("C-08")
async def test_a_conversations_own_prefix_is_not_read_again(llama: LlamaCppEngine) -> None:
    prompt = "The first turn of a conversation, long enough to be kept. "
    first = await greedy(llama, prompt, 4)
    second = await greedy(llama, prompt + first.text + " And the second turn.", 4)
    assert first.usage.cached_tokens == 0
    assert second.usage.cached_tokens >= first.usage.prompt_tokens - 1


async def test_control_tokens_in_text_count_only_when_asked(llama: LlamaCppEngine) -> None:
    (end,) = await llama.tokenize("<|im_end|>", special=True)
    plain = await llama.tokenize("<|im_end|>", special=False)
    assert end not in plain
    assert await llama.detokenize(plain) == "<|im_end|>" == await llama.detokenize([end])
    assert await llama.tokenize("", special=True) == []
    assert await llama.detokenize([]) == ""
    byte = await llama.tokenize("🚲", special=False)
    assert await llama.detokenize(byte[:2]) == "\ufffd"
    with pytest.raises(InvalidRequestError):
        await llama.detokenize([380])
    with pytest.raises(InvalidRequestError):
        await llama.tokenize("\ud800", special=False)
