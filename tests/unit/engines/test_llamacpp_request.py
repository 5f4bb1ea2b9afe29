"""What reaches native code: named fields in range, or nothing."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from openllm.engines.json_schemas import SPACING
from openllm.engines.llamacpp_request import (
    SEED_RANGE,
    LoadedModel,
    encode,
    generation_body,
    native_prompt,
)
from openllm.errors import InvalidRequestError, UnsupportedError
from openllm.types import Prompt, SamplingParams

NEVER = 7
MODEL = LoadedModel(name="m", vocabulary=100, context=64, slots=4, bos="", never_in_json=NEVER)
ALLOWED = {
    "prompt", "stream", "return_progress", "cache_prompt", "n_predict", "n_probs", "n", "samplers",
    "post_sampling_probs", "mirostat", "dynatemp_range", "temperature", "top_k", "top_p", "min_p",
    "seed", "presence_penalty", "frequency_penalty", "repeat_penalty", "repeat_last_n",
    "logit_bias", "ignore_eos", "json_schema", "grammar",
}  # fmt: skip
EDGES = (-(2**63), -1, 0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**70)


def body(prompt: Prompt = "x", **params: Any) -> dict[str, Any]:
    return dict(json.loads(encode(generation_body(prompt, SamplingParams(**params), MODEL))))


@pytest.mark.reliability("S-24")
@pytest.mark.parametrize("value", EDGES)
@pytest.mark.parametrize(
    "name", ["max_tokens", "top_k", "n", "seed", "logprobs", "stop_token_ids", "logit_bias"]
)
def test_every_integer_is_in_native_range_or_refused(name: str, value: int) -> None:
    given: Any = {"stop_token_ids": (value,), "logit_bias": {value: 1.0}}.get(name, value)
    native: dict[str, Any] = {}
    refused: InvalidRequestError | None = None
    try:
        native = body(**{name: given})
    except InvalidRequestError as error:
        refused = error
    assert refused is None or (refused.param == name and str(value) in refused.message)
    assert set(native) <= ALLOWED
    limit = 2**32 if name == "seed" else 2**31
    numbers = [each for each in native.values() if type(each) is int]
    numbers += [token for token, _ in native.get("logit_bias", ())]
    assert all(-1 <= number < limit for number in numbers)


@pytest.mark.reliability("S-24")
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 1e39, -1e39])
@pytest.mark.parametrize(
    "name",
    ["temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty",
     "repetition_penalty", "logit_bias"],
)  # fmt: skip
def test_numbers_that_are_none_are_refused(name: str, value: float) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        body(**{name: {5: value} if name == "logit_bias" else value})
    assert caught.value.param == name


@pytest.mark.reliability("S-24")
def test_everything_at_once_sends_no_field_but_the_allowed() -> None:
    native = body(
        max_tokens=5, temperature=0.7, top_k=4, top_p=0.9, min_p=0.1, n=2, seed=3, stop=("a",),
        stop_token_ids=(1,), presence_penalty=0.5, frequency_penalty=0.5, repetition_penalty=1.1,
        logit_bias={3: -100.0}, logprobs=2, json_schema={"type": "object"},
    )  # fmt: skip
    assert set(native) <= ALLOWED
    assert native["samplers"] == ["penalties", "top_k", "top_p", "min_p", "temperature"]
    assert native["repeat_last_n"] == MODEL.context


@pytest.mark.parametrize(
    ("params", "samplers"),
    [
        ({}, ["temperature"]),
        ({"temperature": 0.0, "top_p": 0.5}, ["top_k", "temperature"]),
        ({"top_k": 3}, ["top_k", "temperature"]),
        ({"presence_penalty": 0.1}, ["penalties", "temperature"]),
        ({"temperature": 0.0, "frequency_penalty": 1.0}, ["penalties", "top_k", "temperature"]),
    ],
)
def test_only_the_samplers_asked_for_run(params: dict[str, Any], samplers: list[str]) -> None:
    assert body(**params)["samplers"] == samplers


def test_greedy_is_the_likeliest_token() -> None:
    native = body(temperature=0.0, top_k=7, seed=1)
    assert (native["temperature"], native["top_k"]) == (0.0, 1)


def test_the_models_own_probabilities_are_asked_for_only_with_logprobs() -> None:
    assert body(temperature=0.0)["post_sampling_probs"] is True
    assert "post_sampling_probs" not in body(temperature=0.0, logprobs=0)
    assert "post_sampling_probs" not in body()  # Would sort the whole vocabulary.
    assert body(logprobs=0)["n_probs"] == 1
    assert body(logprobs=20)["n_probs"] == 20


def test_no_seed_of_any_sequence_means_random() -> None:
    for seed in (0, 5, -1, 2**32 - 2, 2**32 - 1, 2**63, SEED_RANGE - 1):
        native = body(seed=seed, n=4)["seed"]
        assert native >= 0
        assert native + 3 < 2**32 - 1
    assert "seed" not in body()


@pytest.mark.parametrize(
    ("prompt", "native"),
    [
        ("text", "text"),
        (("text",), "text"),
        (("a", "b"), "ab"),
        (("", "a", "", "b"), "ab"),
        ((1, 2), [1, 2]),
        (("a", "b", 1, "", "c", "d"), ["ab", 1, "cd"]),
        ((1, "a"), [1, "a"]),
    ],
)
def test_prompts_are_one_text_or_ids_and_texts(prompt: Prompt, native: Any) -> None:
    assert native_prompt(prompt, MODEL, "prompt") == native


@pytest.mark.reliability("C-20")
@pytest.mark.parametrize("prompt", ["", (), ("",), (100,), (-1,), ("a", 2**31)])
def test_prompts_without_tokens_or_with_false_ones_are_refused(prompt: Prompt) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        native_prompt(prompt, MODEL, "input")
    assert caught.value.param == "input"


@pytest.mark.reliability("C-08")
def test_the_first_token_is_not_doubled() -> None:
    model = msgspec.structs.replace(MODEL, bos="<s>")
    assert native_prompt("<s>Hi", model, "prompt") == "Hi"
    assert native_prompt(("<s>Hi", 4), model, "prompt") == ["Hi", 4]
    assert native_prompt("<s>", model, "prompt") == "<s>"
    assert native_prompt("<s>Hi", MODEL, "prompt") == "<s>Hi"


def test_half_a_surrogate_pair_is_refused() -> None:
    with pytest.raises(InvalidRequestError):
        body("a\ud800")


@pytest.mark.parametrize(
    ("params", "param"),
    [
        ({"grammar": ""}, "grammar"),
        ({"grammar": "x" * 65537}, "grammar"),
        ({"grammar": "%llguidance {}"}, "grammar"),
        ({"grammar": "root ::= [a]", "json_schema": {}}, "grammar"),
        ({"json_schema": {"x-guidance": {"lenient": True}}}, "json_schema"),
        ({"json_schema": {}, "ignore_eos": True}, "ignore_eos"),
        ({"stop": ("a", "")}, "stop"),
        ({"n": 5}, "n"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(params: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        body(**params)
    assert caught.value.param == param


@pytest.mark.parametrize("schema", [{}, {"type": "object"}])
def test_a_schema_leaves_no_room_for_free_whitespace(schema: dict[str, Any]) -> None:
    assert body(json_schema=schema)["json_schema"] == schema | {"x-guidance": SPACING}


def test_a_token_that_json_never_holds_is_made_to_win_where_no_schema_hinders_it() -> None:
    native = body(json_schema={}, logit_bias={3: 5.0, NEVER: -100.0})
    assert native["logit_bias"][:2] == [[3, 5.0], [NEVER, -100.0]]
    token, bias = native["logit_bias"][2]
    assert token == NEVER
    assert bias > 1000
    assert "logit_bias" not in body()


def test_a_model_without_such_a_token_is_held_to_no_schema() -> None:
    model = msgspec.structs.replace(MODEL, never_in_json=None)
    with pytest.raises(UnsupportedError) as caught:
        generation_body("x", SamplingParams(json_schema={}), model)
    assert caught.value.param == "json_schema"
