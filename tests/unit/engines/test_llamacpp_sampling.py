"""What a request asks of the sampler is what llama.cpp does, on a real model."""

from __future__ import annotations

import asyncio
import math

import pytest

from openllm.engines.llamacpp_engine import LlamaCppEngine
from openllm.types import TokenLogprob
from tests.unit.engines.llamas import greedy, say, say_all

pytestmark = pytest.mark.anyio

PROMPT = "one two one two one"


async def ranking(engine: LlamaCppEngine, prompt: str = PROMPT) -> tuple[TokenLogprob, ...]:
    """Return the likeliest next tokens, likeliest first."""
    said = await say(engine, prompt, temperature=0.0, max_tokens=1, logprobs=128)
    return said.logprobs[0].top


async def sampled(engine: LlamaCppEngine, count: int = 48, **params: float) -> set[int]:
    """Return which first tokens come up over many seeds."""
    answers = await asyncio.gather(
        *(say(engine, PROMPT, max_tokens=1, seed=seed, **params) for seed in range(count))
    )
    return {said.ids[0] for said in answers}


@pytest.mark.spec("S0-15", "S3-22")
@pytest.mark.reliability("C-23")
async def test_temperature_0_repeats_itself_and_takes_the_likeliest(llama: LlamaCppEngine) -> None:
    first = await greedy(llama, PROMPT, 24)
    for seed in (None, 1, 2):
        assert (await greedy(llama, PROMPT, 24, seed=seed)).ids == first.ids
    assert (await say(llama, PROMPT, top_k=1, max_tokens=24)).ids == first.ids
    assert (await say(llama, PROMPT, top_p=1e-6, max_tokens=24)).ids == first.ids
    assert (await say(llama, PROMPT, min_p=1.0, max_tokens=24)).ids == first.ids
    assert first.ids[0] == (await ranking(llama))[0].token_id


@pytest.mark.spec("S0-17")
@pytest.mark.reliability("C-23")
async def test_top_k_leaves_the_likeliest(llama: LlamaCppEngine) -> None:
    best = {each.token_id for each in (await ranking(llama))[:3]}
    found = await sampled(llama, top_k=3, temperature=5.0)
    assert found == best


@pytest.mark.spec("S0-18", "S3-22")
@pytest.mark.reliability("C-23")
async def test_top_p_leaves_the_smallest_set_that_reaches_it(llama: LlamaCppEngine) -> None:
    ranked = await ranking(llama)
    for top_p in (0.15, 0.5):
        allowed, mass = set(), 0.0
        for each in ranked:
            if mass >= top_p:
                break
            allowed.add(each.token_id)
            mass += math.exp(each.logprob)
        assert await sampled(llama, top_p=top_p, temperature=5.0) <= allowed


@pytest.mark.reliability("C-23")
async def test_min_p_leaves_what_is_near_the_likeliest(llama: LlamaCppEngine) -> None:
    ranked = await ranking(llama)
    floor = ranked[0].logprob + math.log(0.3)
    allowed = {each.token_id for each in ranked if each.logprob >= floor - 1e-4}
    assert await sampled(llama, min_p=0.3, temperature=5.0) <= allowed


@pytest.mark.spec("S0-19")
async def test_samplers_combine(llama: LlamaCppEngine) -> None:
    ranked = await ranking(llama)
    weights = [math.exp(each.logprob) for each in ranked[:5]]
    allowed, mass = set(), 0.0
    for each, weight in zip(ranked, weights, strict=False):
        if mass >= 0.5 * sum(weights):
            break
        allowed.add(each.token_id)
        mass += weight
    assert await sampled(llama, top_k=5, top_p=0.5, temperature=5.0) <= allowed
    assert len(await sampled(llama, top_k=5, temperature=100.0)) == 5
    assert len(await sampled(llama, top_k=5, temperature=0.01)) <= 2


async def test_temperature_1_draws_from_the_models_own_distribution(llama: LlamaCppEngine) -> None:
    ranked = await ranking(llama)
    (said,) = [await say(llama, PROMPT, max_tokens=1, seed=1, logprobs=5)]
    assert said.logprobs[0].top[0].logprob == pytest.approx(ranked[0].logprob, abs=1e-2)
    draws = await asyncio.gather(
        *(say(llama, PROMPT, max_tokens=1, seed=seed) for seed in range(300))
    )
    expected = math.exp(ranked[0].logprob)
    share = sum(said.ids[0] == ranked[0].token_id for said in draws) / len(draws)
    assert abs(share - expected) < 4 * math.sqrt(expected * (1 - expected) / len(draws))


@pytest.mark.spec("S3-25")
@pytest.mark.reliability("C-11")
async def test_a_seed_repeats_and_sequence_i_uses_seed_plus_i(llama: LlamaCppEngine) -> None:
    first = await say(llama, PROMPT, max_tokens=12, seed=5)
    assert (await say(llama, PROMPT, max_tokens=12, seed=5)).ids == first.ids
    others = [(await say(llama, PROMPT, max_tokens=12, seed=5 + i)).ids for i in range(3)]
    together = await say_all(llama, PROMPT, max_tokens=12, seed=5, n=3)
    assert [said.ids for said in together] == others
    assert len({tuple(ids) for ids in others}) == 3
    free = [tuple((await say(llama, PROMPT, max_tokens=12)).ids) for _ in range(4)]
    assert len(set(free)) > 1


@pytest.mark.spec("S3-25")
@pytest.mark.reliability("C-23")
async def test_a_bias_forces_and_bans(llama: LlamaCppEngine) -> None:
    plain = await greedy(llama, PROMPT, 8)
    (letter,) = await llama.tokenize("Q", special=False)
    assert (await greedy(llama, PROMPT, 8, logit_bias={letter: 100.0})).text == "Q" * 8
    banned = await greedy(llama, PROMPT, 8, logit_bias={plain.ids[0]: -100.0})
    assert plain.ids[0] not in banned.ids
    assert banned.ids[0] == (await ranking(llama))[1].token_id


def penalised(
    ranked: tuple[TokenLogprob, ...], seen: list[int], presence: float, frequency: float
) -> int:
    """Return the token that is likeliest once those in `seen` are penalised."""

    def value(each: TokenLogprob) -> float:
        count = seen.count(each.token_id)
        return each.logprob - frequency * count - presence * bool(count)

    return max(ranked, key=value).token_id


@pytest.mark.spec("S0-23", "S0-24", "S3-24")
@pytest.mark.reliability("C-23")
@pytest.mark.parametrize(
    ("presence", "frequency"), [(0.0, 0.3), (0.0, 1.0), (0.5, 0.0), (2.0, 0.0), (0.5, 0.2)]
)
async def test_penalties_count_prompt_and_output(
    llama: LlamaCppEngine, presence: float, frequency: float
) -> None:
    likely = [each.token for each in (await ranking(llama))[:6]]
    prompt = "".join(token * (6 - at) for at, token in enumerate(likely)) + PROMPT
    said = await greedy(
        llama, prompt, 12, presence_penalty=presence, frequency_penalty=frequency, logprobs=128
    )
    seen = await llama.tokenize(prompt, special=True)
    for token_id, report in zip(said.ids, said.logprobs, strict=True):
        assert token_id == penalised(report.top[:128], seen, presence, frequency)
        seen.append(token_id)
    plain = await greedy(llama, prompt, 12)
    if presence + frequency >= 1:
        assert said.ids != plain.ids


async def test_a_repetition_penalty_makes_repetition_rarer(llama: LlamaCppEngine) -> None:
    plain = await greedy(llama, PROMPT, 96)
    fresh = await greedy(llama, PROMPT, 96, repetition_penalty=3.0)
    assert len(set(fresh.ids)) > len(set(plain.ids))


async def test_ignoring_the_end_goes_on(llama: LlamaCppEngine) -> None:
    (end,) = await llama.tokenize("<|im_end|>", special=True)
    ended = await greedy(llama, PROMPT, 8, logit_bias={end: 100.0})
    assert (ended.text, ended.finish) == ("", ["stop"])
    going = await greedy(llama, PROMPT, 8, logit_bias={end: 100.0}, ignore_eos=True)
    assert (len(going.ids), going.finish) == (8, ["length"])
