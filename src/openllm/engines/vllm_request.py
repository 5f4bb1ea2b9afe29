"""Requests in vLLM's own terms, and nothing in them that vLLM could choke on.

vLLM checks values in our process and once more where it decodes them in its own, where what
fails ends it for all: every value must be known to be good before it is handed over.

Presence and frequency penalties count the output, repetition penalty prompt and output.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from openllm.engines.request_checks import (
    check_limits,
    check_ranges,
    check_token,
    check_tokens,
    too_long,
)
from openllm.engines.vllm_arguments import MAX_LOGPROBS
from openllm.errors import InvalidRequestError
from openllm.types import Prompt, SamplingParams

if TYPE_CHECKING:
    from openllm.engines.hf_tokens import TokenTable

SEED_RANGE = 2**63
LIMITS = {
    "n": (1, 1024),
    "temperature": (0.0, 2.0),
    "presence_penalty": (-2.0, 2.0),
    "frequency_penalty": (-2.0, 2.0),
    "repetition_penalty": (0.01, 100.0),
    "logprobs": (0, MAX_LOGPROBS),
}
"""Values that vLLM takes, where those are fewer than others do."""
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


def context_of(config: Any) -> int:
    """Return the tokens that one sequence can have, of a `ModelConfig` of vLLM.

    RoBERTa's positions begin behind that of padding, which vLLM does not subtract: for tokens
    beyond the last one it would read what is no position.
    """
    context, text = int(config.max_model_len), config.hf_text_config
    if "roberta" not in text.model_type or getattr(text, "position_embedding_type", "") == "rotary":
        return context
    return min(context, int(text.max_position_embeddings - text.pad_token_id - 1))


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
    ids = model.table.prompt_ids(prompt, closed=closed)
    if not ids:
        raise InvalidRequestError(f"{param} is empty; give at least one token", param=param)
    for extreme in (min(ids), max(ids)):  # A tokenizer, too, may know more tokens than the model.
        check_token(extreme, model.vocabulary, param)
    return ids


def token_limit(params: SamplingParams, ids: Sequence[int], model: LoadedModel) -> int:
    """Return how many tokens may be made behind a prompt; raises `ContextLengthError` for none."""
    room = model.context - len(ids)
    if room < 1:
        raise too_long(len(ids), model.name, model.context, model.context - 1)
    return room if params.max_tokens is None else min(params.max_tokens, room)


def sampling_arguments(params: SamplingParams, model: LoadedModel, limit: int) -> dict[str, Any]:
    """Return the arguments for vLLM's `SamplingParams` of one sequence, without seed and structure.

    Stop strings are not among them: text is made here, from the tokens' bytes.

    Args:
        params: What was asked for.
        model: The model.
        limit: Most tokens to make, at most what the context holds.

    Raises:
        InvalidRequestError: A value is out of range; `param` names it.
    """
    check_ranges(params)
    check_tokens(params, model.vocabulary)
    check_limits(params, LIMITS, "vLLM")
    arguments: dict[str, Any] = {
        "max_tokens": limit,
        "ignore_eos": params.ignore_eos,
        "stop_token_ids": list(params.stop_token_ids),
        "logit_bias": dict(params.logit_bias),
        "presence_penalty": params.presence_penalty,
        "frequency_penalty": params.frequency_penalty,
        "repetition_penalty": params.repetition_penalty,
        "detokenize": False,
        "skip_clone": True,
    }
    if params.logprobs is not None:
        arguments["logprobs"] = min(params.logprobs, model.vocabulary)
    return arguments | _distribution(params, model)


def seed_of(params: SamplingParams, index: int) -> int | None:
    """Return the seed of sequence `index`, in the range that vLLM takes."""
    return None if params.seed is None else (params.seed + index) % SEED_RANGE


def _distribution(params: SamplingParams, model: LoadedModel) -> dict[str, Any]:
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
