"""Requests in vLLM's terms: every value in a range that its own process takes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from openllm.engines.hf_tokens import TokenTable
from openllm.engines.vllm_request import (
    LEAST_TEMPERATURE,
    LIMITS,
    LoadedModel,
    context_of,
    prompt_ids,
    sampling_arguments,
    seed_of,
    token_limit,
)
from openllm.errors import ContextLengthError, InvalidRequestError
from openllm.types import Prompt, SamplingParams


class Letters:
    """A table of tokens: each character its code, BOS 1 before a text and EOS 2 behind it."""

    def prompt_ids(self, prompt: Prompt, *, closed: bool = False) -> list[int]:
        pieces = (prompt,) if isinstance(prompt, str) else prompt
        ids = [
            each
            for piece in pieces
            for each in ([ord(c) for c in piece] if isinstance(piece, str) else [piece])
        ]
        return [1, *ids, *([2] if closed else [])] if ids else []


MODEL = LoadedModel(name="m", vocabulary=128, context=8, table=cast(TokenTable, Letters()))


def arguments(**params: Any) -> dict[str, Any]:
    return sampling_arguments(SamplingParams(**params), MODEL, 5)


def test_prompts_become_ids() -> None:
    assert prompt_ids(("a", 5), MODEL, "prompt") == [1, 97, 5]
    assert prompt_ids("a", MODEL, "input", closed=True) == [1, 97, 2]


@pytest.mark.reliability("C-20", "S-16")
@pytest.mark.parametrize("prompt", ["", (), ("",), (-1,), (128,), ("a", 10**12), "\u0394"])
def test_prompts_without_tokens_or_with_false_ones_are_refused(prompt: Prompt) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        prompt_ids(prompt, MODEL, "input")
    assert caught.value.param == "input"


@pytest.mark.reliability("C-19")
def test_the_limit_ends_with_the_context() -> None:
    assert token_limit(SamplingParams(), [0] * 6, MODEL) == 2
    assert token_limit(SamplingParams(max_tokens=1), [0] * 6, MODEL) == 1
    assert token_limit(SamplingParams(max_tokens=2**40), [0] * 6, MODEL) == 2
    for length in (8, 9):
        with pytest.raises(ContextLengthError, match=rf"has {length} tokens.* holds 8"):
            token_limit(SamplingParams(), [0] * length, MODEL)


def test_neutral_values_stay_neutral() -> None:
    given = arguments()
    assert given["max_tokens"] == 5
    assert (given["temperature"], given["top_k"], given["top_p"], given["min_p"]) == (1, 0, 1, 0)
    assert "logprobs" not in given
    assert "stop" not in given


@pytest.mark.parametrize("temperature", [1e-9, 0.009])
def test_what_is_too_cold_for_vllm_is_warmed(temperature: float) -> None:
    assert arguments(temperature=temperature)["temperature"] == LEAST_TEMPERATURE


def test_greedy_takes_no_other_sampler() -> None:
    given = arguments(temperature=0.0, top_k=5, top_p=0.5, min_p=0.5)
    assert given["temperature"] == 0
    assert not {"top_k", "top_p", "min_p"} & given.keys()


def test_no_probability_leaves_the_likeliest_token() -> None:
    assert arguments(top_p=0.0)["top_k"] == 1


def test_numbers_beyond_the_vocabulary_mean_all_of_it() -> None:
    assert arguments(top_k=10**30)["top_k"] == 0
    assert arguments(logprobs=128)["logprobs"] == 128


def test_seeds_count_up_within_the_range() -> None:
    params = SamplingParams(seed=2**63 - 1)
    assert [seed_of(params, index) for index in range(2)] == [2**63 - 1, 0]
    assert seed_of(SamplingParams(seed=-5), 0) == 2**63 - 5
    assert seed_of(SamplingParams(), 3) is None


@pytest.mark.reliability("C-23", "S-16")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("temperature", 2.1),
        ("top_p", 1.1),
        ("min_p", -0.1),
        ("top_k", -1),
        ("presence_penalty", 2.1),
        ("frequency_penalty", float("nan")),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", 1e9),
        ("logprobs", 129),
        ("n", 0),
        ("n", 10**9),
        ("max_tokens", 0),
        ("stop", ("a", "")),
        ("stop_token_ids", (128,)),
        ("logit_bias", {-1: 0.0}),
        ("logit_bias", {5: float("nan")}),
        ("logit_bias", {5: 101.0}),
    ],
)
def test_values_that_vllm_would_choke_on_are_refused(name: str, value: object) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        arguments(**{name: value})
    assert caught.value.param == name


@pytest.mark.parametrize("name", LIMITS)
def test_the_ends_of_the_ranges_are_taken(name: str) -> None:
    for value in LIMITS[name]:
        arguments(**{name: value})


@pytest.mark.reliability("C-19", "C-21")
@pytest.mark.parametrize(
    ("model_type", "more", "context"),
    [
        ("llama", {}, 514),
        ("bert", {"pad_token_id": 0}, 514),
        ("roberta", {"pad_token_id": 1}, 512),
        ("xlm-roberta", {"pad_token_id": 1, "position_embedding_type": "absolute"}, 512),
        ("xlm-roberta", {"pad_token_id": 1, "position_embedding_type": "rotary"}, 514),
        ("roberta", {"pad_token_id": 1, "max_position_embeddings": 1026}, 514),
    ],
)
def test_the_context_is_what_a_model_has_positions_for(
    model_type: str, more: dict[str, Any], context: int
) -> None:
    text = SimpleNamespace(**{"model_type": model_type, "max_position_embeddings": 514} | more)
    assert context_of(SimpleNamespace(max_model_len=514, hf_text_config=text)) == context
