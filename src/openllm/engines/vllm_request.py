"""Requests in vLLM's own terms, and nothing in them that vLLM could choke on.

vLLM checks values in our process and once more where it decodes them in its own, where what
fails ends it for all: every value must be known to be good before it is handed over.

Presence and frequency penalties count the output, repetition penalty prompt and output. The first
two and the temperature reach as far as vLLM takes them, from -2 to 2 and from 0 to 2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from openllm.engines.vllm_arguments import MAX_LOGPROBS
from openllm.errors import ContextLengthError, InvalidRequestError
from openllm.types import Prompt, SamplingParams

if TYPE_CHECKING:
    from openllm.engines.hf_tokens import TokenTable

SEED_RANGE = 2**63
LEAST_TEMPERATURE = 0.01
"""vLLM raises lower ones to it, with a warning each; 0 is greedy."""


class LoadedModel(Struct, frozen=True, kw_only=True):
    """What requests must know of the loaded model.

    Attributes:
        name: Name that requests use.
        vocabulary: Number of token ids.
        context: Tokens of prompt and output that one sequence holds.
        table: The tokenizer's tokens.
    """

    name: str
    vocabulary: int
    context: int
    table: TokenTable


def prompt_ids(
    prompt: Prompt, model: LoadedModel, param: str, *, closed: bool = False
) -> list[int]:
    """Return the ids of a prompt, with the tokens that the tokenizer puts before a text.

    Args:
        prompt: Text in which control tokens count, or pieces of such text and ids.
        model: The model.
        param: Name of the request's field, for errors.
        closed: The text is embedded: put what the tokenizer puts behind a text, too.

    Raises:
        InvalidRequestError: The prompt is empty, or holds an id that is no token.
    """
    if not isinstance(prompt, str):
        for piece in prompt:
            if not isinstance(piece, str):
                token_id(piece, model, param)
    ids = model.table.prompt_ids(prompt, closed=closed)
    if not ids:
        raise InvalidRequestError(f"{param} is empty; give at least one token", param=param)
    for each in ids:  # A tokenizer may know more tokens than the model.
        token_id(each, model, param)
    return ids


def room(ids: Sequence[int], model: LoadedModel) -> int:
    """Return how many tokens fit the context behind a prompt; raises `ContextLengthError` for 0."""
    left = model.context - len(ids)
    if left < 1:
        raise ContextLengthError(
            f"the prompt has {len(ids)} tokens; the context of model {model.name!r} holds "
            f"{model.context}, so send at most {model.context - 1}",
            param="prompt",
        )
    return left


def token_id(value: int, model: LoadedModel, param: str) -> int:
    """Return `value` if it is a token id of the model; else raise `InvalidRequestError`."""
    if not 0 <= value < model.vocabulary:
        raise InvalidRequestError(
            f"{param}: {value} is no token id; ids are 0 to {model.vocabulary - 1}", param=param
        )
    return value


def sampling_arguments(params: SamplingParams, model: LoadedModel, limit: int) -> dict[str, Any]:
    """Return the arguments for vLLM's `SamplingParams` of one sequence, without seed and structure.

    Stop strings are not among them: text is made here, from the tokens' bytes.

    Args:
        params: What was asked for.
        model: The model.
        limit: Most tokens to make, from `token_limit`.

    Raises:
        InvalidRequestError: A value is out of range; `param` names it.
    """
    if not all(params.stop):
        raise InvalidRequestError("stop holds an empty string; leave it out", param="stop")
    _check("n", params.n, 1, math.inf)
    arguments: dict[str, Any] = {
        "max_tokens": limit,
        "ignore_eos": params.ignore_eos,
        "stop_token_ids": [token_id(e, model, "stop_token_ids") for e in params.stop_token_ids],
        "detokenize": False,
        "skip_clone": True,
    }
    if params.logprobs is not None:
        _check("logprobs", params.logprobs, 0, MAX_LOGPROBS)
        arguments["logprobs"] = min(params.logprobs, model.vocabulary)
    return arguments | _distribution(params, model) | _penalties(params) | _bias(params, model)


def token_limit(params: SamplingParams, left: int) -> int:
    """Return how many tokens may be made where `left` fit the context."""
    if params.max_tokens is None:
        return left
    if params.max_tokens < 1:
        raise InvalidRequestError(
            f"max_tokens is {params.max_tokens}; it must be at least 1", param="max_tokens"
        )
    return min(params.max_tokens, left)


def seed_of(params: SamplingParams, index: int) -> int | None:
    """Return the seed of sequence `index`, in the range that vLLM takes."""
    return None if params.seed is None else (params.seed + index) % SEED_RANGE


def _distribution(params: SamplingParams, model: LoadedModel) -> dict[str, Any]:
    _check("temperature", params.temperature, 0.0, 2.0)
    _check("top_k", params.top_k, 0, math.inf)
    _check("top_p", params.top_p, 0.0, 1.0)
    _check("min_p", params.min_p, 0.0, 1.0)
    if params.temperature == 0:
        return {"temperature": 0.0}
    if params.top_p == 0:  # Of no probability there is still the likeliest token.
        return {"temperature": 1.0, "top_k": 1}
    return {
        "temperature": max(params.temperature, LEAST_TEMPERATURE),
        "top_k": params.top_k if params.top_k < model.vocabulary else 0,
        "top_p": params.top_p,
        "min_p": params.min_p,
    }


def _penalties(params: SamplingParams) -> dict[str, Any]:
    _check("presence_penalty", params.presence_penalty, -2.0, 2.0)
    _check("frequency_penalty", params.frequency_penalty, -2.0, 2.0)
    _check("repetition_penalty", params.repetition_penalty, 0.01, 100.0)
    return {
        "presence_penalty": params.presence_penalty,
        "frequency_penalty": params.frequency_penalty,
        "repetition_penalty": params.repetition_penalty,
    }


def _bias(params: SamplingParams, model: LoadedModel) -> dict[str, Any]:
    for each, bias in params.logit_bias.items():
        token_id(each, model, "logit_bias")
        _check("logit_bias", bias, -100.0, 100.0)
    return {"logit_bias": dict(params.logit_bias)} if params.logit_bias else {}


def _check(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:  # NaN is in no range.
        limits = f"from {low} to {high}" if high < math.inf else f"at least {low}"
        raise InvalidRequestError(f"{name} is {value}; it must be {limits}", param=name)
