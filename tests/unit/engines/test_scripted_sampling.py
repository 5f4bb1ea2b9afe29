"""Sampling from a known distribution: each parameter does what it says, and no more."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest

from openllm.engines.scripted_engine import ScriptedEngine
from openllm.errors import InvalidRequestError, UnsupportedError
from openllm.types import TokenLogprob
from tests.unit.engines.scripting import collect, say, scripted

pytestmark = pytest.mark.anyio

WEIGHTS = {"a": 0.4, "b": 0.3, "c": 0.2, "d": 0.1}
SCRIPT = {
    "context_length": 20_000,
    "rules": [{"match": "say", "reply": "one two three"}],
    "default": {"distribution": WEIGHTS},
}
DRAWS = 4000


async def shares(engine: ScriptedEngine, **params: Any) -> dict[str, float]:
    text = await say(engine, "-", max_tokens=DRAWS, seed=11, **params)
    return {token: count / DRAWS for token, count in Counter(text).items()}


def near(expected: dict[str, float]) -> object:
    # Five standard deviations of a share of 4,000 draws are at most 0.04.
    return pytest.approx(expected, abs=0.04)


@pytest.mark.spec("S0-16")
async def test_temperature_one_is_the_unscaled_distribution() -> None:
    async with scripted(SCRIPT) as engine:
        assert await shares(engine, temperature=1.0) == near(WEIGHTS)


@pytest.mark.reliability("C-23")
@pytest.mark.parametrize("temperature", [0.3, 0.5, 2.0])
async def test_other_temperatures_scale_the_logits(temperature: float) -> None:
    powers = {token: weight ** (1 / temperature) for token, weight in WEIGHTS.items()}
    total = sum(powers.values())
    async with scripted(SCRIPT) as engine:
        found = await shares(engine, temperature=temperature)
    expected = {token: power / total for token, power in powers.items()}
    assert {token: found.get(token, 0.0) for token in WEIGHTS} == near(expected)


@pytest.mark.reliability("C-23")
@pytest.mark.spec("S0-15")
async def test_temperature_zero_is_greedy_whatever_the_seed() -> None:
    async with scripted(SCRIPT) as engine:
        texts = {await say(engine, max_tokens=20, temperature=0.0, seed=seed) for seed in range(20)}
    assert texts == {"a" * 20}


@pytest.mark.reliability("C-23")
@pytest.mark.parametrize(
    ("params", "kept"),
    [
        pytest.param({"top_k": 3}, "abc", marks=pytest.mark.spec("S0-17")),
        ({"top_k": 1}, "a"),
        ({"top_k": 9}, "abcd"),
        pytest.param({"top_p": 0.15}, "a", marks=pytest.mark.spec("S0-18")),
        ({"top_p": 0.4}, "a"),
        ({"top_p": 0.41}, "ab"),
        ({"top_p": 0.9}, "abc"),
        ({"top_p": 0.0}, "a"),
        ({"min_p": 0.5}, "abc"),
        ({"min_p": 0.51}, "ab"),
        ({"min_p": 1.0}, "a"),
        pytest.param(
            {"top_k": 3, "top_p": 0.5, "temperature": 2.0}, "ab", marks=pytest.mark.spec("S0-19")
        ),
        ({"top_k": 3, "top_p": 0.99, "min_p": 0.6}, "ab"),
    ],
    ids=str,
)
async def test_truncation_keeps_the_likeliest(params: dict[str, Any], kept: str) -> None:
    async with scripted(SCRIPT) as engine:
        found = await shares(engine, **params)
    assert set(found) == set(kept)
    if params.get("temperature", 1.0) == 1.0:
        total = sum(WEIGHTS[token] for token in kept)
        assert found == near({token: WEIGHTS[token] / total for token in kept})


@pytest.mark.reliability("C-11", "C-23")
async def test_a_seed_repeats_and_seeds_differ() -> None:
    async with scripted(SCRIPT) as engine:
        first = [await say(engine, max_tokens=30, seed=seed) for seed in range(20)]
        again = [await say(engine, max_tokens=30, seed=seed) for seed in range(20)]
    assert first == again
    assert len(set(first)) == 20


@pytest.mark.reliability("C-06")
async def test_sequence_i_uses_seed_plus_i() -> None:
    async with scripted(SCRIPT) as engine:
        texts = ["", "", ""]
        for chunk in await collect(engine, max_tokens=30, n=3, seed=7):
            texts[chunk.index] += chunk.text
        assert texts == [await say(engine, max_tokens=30, seed=7 + at) for at in range(3)]


async def test_without_a_seed_answers_differ() -> None:
    async with scripted(SCRIPT) as engine:
        assert len({await say(engine, max_tokens=40) for _ in range(5)}) == 5


@pytest.mark.spec("S0-23")
@pytest.mark.reliability("C-23")
async def test_frequency_penalty_grows_with_the_count_in_prompt_and_output() -> None:
    async with scripted(SCRIPT) as engine:
        # a falls by 0.2 each time: log 0.4 - 0.2 k < log 0.3 first for k = 2; the dashes add none.
        assert await say(engine, "-", max_tokens=5, temperature=0.0, frequency_penalty=0.2) == (
            "aabab"
        )
        # Two of a in the prompt already count.
        assert await say(engine, "aa", max_tokens=3, temperature=0.0, frequency_penalty=0.2) == (
            "bab"
        )


@pytest.mark.spec("S0-24")
@pytest.mark.reliability("C-23")
async def test_presence_penalty_counts_once() -> None:
    async with scripted(SCRIPT) as engine:
        # log 0.4 - 0.5 < log 0.3, but after b and c each appeared a is ahead again and stays so.
        text = await say(engine, "-", max_tokens=8, temperature=0.0, presence_penalty=0.5)
    assert text == "abaaaaaa"


@pytest.mark.reliability("C-23")
async def test_repetition_penalty_scales_logits() -> None:
    async with scripted(SCRIPT) as engine:
        # log 0.4 x 1.5 = -1.37 < log 0.3 = -1.20; then b x 1.5 = -1.81 and a is ahead again.
        text = await say(engine, "-", max_tokens=4, temperature=0.0, repetition_penalty=1.5)
    assert text == "abaa"


@pytest.mark.reliability("C-23")
async def test_bias_forces_and_bans_sampled_tokens() -> None:
    async with scripted(SCRIPT) as engine:
        assert await shares(engine, logit_bias={ord("d"): 100.0}) == {"d": 1.0}
        assert await shares(engine, logit_bias={ord("z"): 100.0}) == {"z": 1.0}
        banned = await shares(engine, logit_bias={ord("a"): -100.0})
        assert banned == near({"b": 0.5, "c": 1 / 3, "d": 1 / 6})


@pytest.mark.reliability("C-23")
async def test_bias_forces_and_bans_scripted_tokens() -> None:
    async with scripted(SCRIPT) as engine:
        two = (await engine.tokenize(" two", special=False))[0]
        assert await say(engine, "say", logit_bias={ord("z"): 100.0}, max_tokens=4) == "zzzz"
        assert await say(engine, "say", logit_bias={two: -100.0}) == "one"


@pytest.mark.reliability("C-10")
@pytest.mark.parametrize("prompt", ["say", "-"])
@pytest.mark.parametrize("count", [0, 1, 3, 20])
async def test_logprobs_are_a_distribution(prompt: str, count: int) -> None:
    async with scripted(SCRIPT) as engine:
        chunks = await collect(engine, prompt, max_tokens=10, logprobs=count, seed=3)
    tokens = [token for chunk in chunks for token in chunk.logprobs or ()]
    assert [token.token_id for token in tokens] == [i for c in chunks for i in c.token_ids]
    assert b"".join(bytes(token.bytes) for token in tokens).decode() == "".join(
        chunk.text for chunk in chunks
    )
    for token in tokens:
        check_top(token, count)
    assert chunks[-1].cumulative_logprob == pytest.approx(sum(token.logprob for token in tokens))


def check_top(token: TokenLogprob, count: int) -> None:
    assert token.logprob <= 0
    if not count:
        assert token.top == ()
        return
    values = [each.logprob for each in token.top]
    assert values == sorted(values, reverse=True)
    assert sum(map(math.exp, values)) <= 1 + 1e-9
    assert len({each.token_id for each in token.top}) == len(values) <= count + 1
    chosen = next(each for each in token.top if each.token_id == token.token_id)
    assert chosen.logprob == token.logprob


@pytest.mark.reliability("C-10")
async def test_logprobs_are_those_before_temperature_and_truncation() -> None:
    async with scripted(SCRIPT) as engine:
        chunks = await collect(engine, max_tokens=1, logprobs=2, temperature=0.1, top_k=1)
    token = (chunks[0].logprobs or ())[0]
    assert (token.token, token.logprob) == ("a", pytest.approx(math.log(0.4)))
    assert [each.token for each in token.top] == ["a", "b"]


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"n": 0}, "n"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": math.nan}, "temperature"),
    ({"temperature": math.inf}, "temperature"),
    ({"top_k": -1}, "top_k"),
    ({"top_p": 1.1}, "top_p"),
    ({"min_p": math.nan}, "min_p"),
    ({"repetition_penalty": 0.0}, "repetition_penalty"),
    ({"logprobs": -1}, "logprobs"),
    ({"stop": ("a", "")}, "stop"),
    ({"presence_penalty": math.nan}, "presence_penalty"),
    ({"frequency_penalty": math.inf}, "frequency_penalty"),
    ({"logit_bias": {10**6: 1.0}}, "logit_bias"),
    ({"logit_bias": {97: 100.5}}, "logit_bias"),
    ({"logit_bias": {97: math.nan}}, "logit_bias"),
    ({"stop_token_ids": (-1,)}, "stop_token_ids"),
]


@pytest.mark.reliability("C-23")
@pytest.mark.parametrize(("params", "named"), REFUSED, ids=str)
async def test_values_out_of_range_are_refused(params: dict[str, Any], named: str) -> None:
    async with scripted(SCRIPT) as engine:
        with pytest.raises(InvalidRequestError) as caught:
            await collect(engine, **params)
    assert caught.value.param == named


@pytest.mark.reliability("C-23")
@pytest.mark.parametrize("params", [{"json_schema": {}}, {"grammar": "root ::= [a-z]"}], ids=str)
async def test_what_cannot_be_followed_is_refused(params: dict[str, Any]) -> None:
    async with scripted(SCRIPT) as engine:
        assert not engine.capabilities.structured_output
        with pytest.raises(UnsupportedError) as caught:
            await collect(engine, **params)
    assert caught.value.param == next(iter(params))
