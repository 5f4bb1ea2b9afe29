"""Sampling parameters: what is sent wins over the model's defaults, and nothing is invented."""

from __future__ import annotations

from typing import Any

import pytest

from openllm.config.model import RequestDefaults
from openllm.server.openai_schema import ChatCompletionRequest, CompletionRequest
from openllm.server.sampling import sampling_params
from openllm.server.validation import validate
from openllm.types import SamplingParams

DEFAULTS = RequestDefaults(
    temperature=0.25,
    top_k=3,
    top_p=0.5,
    stop_sequence=("END",),
    frequency_penalty=0.125,
    presence_penalty=0.75,
    max_tokens=9,
    seed=4,
)


NO_DEFAULTS = RequestDefaults()


def params(defaults: RequestDefaults = NO_DEFAULTS, **fields: Any) -> SamplingParams:
    body = {"messages": [{"role": "user", "content": "hi"}], **fields}
    return sampling_params(validate(ChatCompletionRequest, body), defaults)


def test_nothing_sent_is_the_engines_neutral() -> None:
    assert params() == SamplingParams()
    wire = validate(CompletionRequest, {"prompt": "hi"})
    assert sampling_params(wire, RequestDefaults(), logprobs=2) == SamplingParams(logprobs=2)


def test_the_models_defaults_fill_what_is_not_sent() -> None:
    assert params(DEFAULTS) == SamplingParams(
        temperature=0.25,
        top_k=3,
        top_p=0.5,
        stop=("END",),
        frequency_penalty=0.125,
        presence_penalty=0.75,
        max_tokens=9,
        seed=4,
    )
    sent: dict[str, Any] = {
        "temperature": 0,
        "top_k": 0,
        "top_p": 1,
        "frequency_penalty": 0,
        "presence_penalty": 0,
        "max_tokens": 1,
        "seed": 0,
    }
    assert params(DEFAULTS, stop=[], **sent) == SamplingParams(**sent)


@pytest.mark.reliability("C-23")
@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"max_tokens": 5, "max_completion_tokens": 3}, {"max_tokens": 3}),
        ({"stop": "a"}, {"stop": ("a",)}),
        ({"stop": ["a", "b"]}, {"stop": ("a", "b")}),
        ({"top_k": -1}, {"top_k": 0}),
        ({"seed": -1}, {"seed": 2**63 - 1}),
        ({"logit_bias": {"5": -100, "007": 1}}, {"logit_bias": {5: -100.0, 7: 1.0}}),
        ({"stop_token_ids": [0, 2]}, {"stop_token_ids": (0, 2)}),
        ({"response_format": {"type": "text"}}, {}),
        ({"response_format": {"type": "json_object"}}, {"json_schema": {"type": "object"}}),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}},
            {"json_schema": {}},
        ),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "a", "schema": {"type": "string"}, "strict": True},
                }
            },
            {"json_schema": {"type": "string"}},
        ),
        ({"grammar": 'root ::= "a"'}, {"grammar": 'root ::= "a"'}),
        (
            {"n": 3, "min_p": 0.5, "repetition_penalty": 1.5, "ignore_eos": True},
            {"n": 3, "min_p": 0.5, "repetition_penalty": 1.5, "ignore_eos": True},
        ),
        ({"temperature": None, "stop": None, "seed": None, "n": None}, {}),
    ],
)
def test_wire_to_engine(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    assert params(**fields) == SamplingParams(**expected)


def test_a_default_top_p_of_0_is_greedy() -> None:
    made = params(RequestDefaults(top_p=0))
    assert (made.top_p, made.top_k) == (1.0, 1)
