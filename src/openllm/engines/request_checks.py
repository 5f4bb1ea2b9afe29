"""What engines check of a request themselves, before it reaches their own code."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from openllm.errors import ContextLengthError, InvalidRequestError
from openllm.types import SamplingParams

Structure = Literal["json_schema", "grammar"]


def check_ranges(params: SamplingParams) -> None:
    """Raise `InvalidRequestError`, naming it, for a value that no engine could honour."""
    for name, valid, rule in (
        ("n", params.n >= 1, "at least 1"),
        ("max_tokens", params.max_tokens is None or params.max_tokens >= 1, "at least 1"),
        ("temperature", 0 <= params.temperature < math.inf, "0 or more"),
        ("top_k", params.top_k >= 0, "0 or more"),
        ("top_p", 0 <= params.top_p <= 1, "between 0 and 1"),
        ("min_p", 0 <= params.min_p <= 1, "between 0 and 1"),
        ("presence_penalty", math.isfinite(params.presence_penalty), "a finite number"),
        ("frequency_penalty", math.isfinite(params.frequency_penalty), "a finite number"),
        ("repetition_penalty", 0 < params.repetition_penalty < math.inf, "more than 0"),
        ("logprobs", params.logprobs is None or params.logprobs >= 0, "0 or more"),
        ("stop", all(params.stop), "texts that are not empty"),
        ("logit_bias", all(abs(b) <= 100 for b in params.logit_bias.values()), "-100 to 100"),
    ):
        if not valid:
            raise InvalidRequestError(
                f"{name}={getattr(params, name)!r} must be {rule}", param=name
            )


def check_limits(
    params: SamplingParams, limits: Mapping[str, tuple[float, float]], engine: str
) -> None:
    """Raise `InvalidRequestError` for a value outside of the least and the most an engine takes."""
    for name, (low, high) in limits.items():
        value = getattr(params, name)
        if value is not None and not low <= value <= high:
            raise InvalidRequestError(
                f"{name}={value} is beyond what {engine} takes, {low} to {high}", param=name
            )


def check_token(token_id: int, vocabulary: int, param: str) -> int:
    """Return `token_id` if it is one of `vocabulary` ids; else raise `InvalidRequestError`."""
    if not 0 <= token_id < vocabulary:
        raise InvalidRequestError(
            f"{param}: {token_id} is no token id; ids are 0 to {vocabulary - 1}", param=param
        )
    return token_id


def check_tokens(params: SamplingParams, vocabulary: int) -> None:
    """Raise `InvalidRequestError` for an id in `logit_bias` or `stop_token_ids` that is none."""
    for name, ids in (
        ("logit_bias", params.logit_bias),
        ("stop_token_ids", params.stop_token_ids),
    ):
        for token_id in ids:
            check_token(token_id, vocabulary, name)


def structure_of(params: SamplingParams) -> Structure | None:
    """Return which parameter says what the text is held to, None if it is free.

    Raises:
        InvalidRequestError: It cannot be held to that and to another parameter at once.
    """
    if params.json_schema is None and params.grammar is None:
        return None
    if params.json_schema is not None and params.grammar is not None:
        raise InvalidRequestError(
            "json_schema and grammar exclude each other; give one", param="grammar"
        )
    kind: Structure = "grammar" if params.json_schema is None else "json_schema"
    if params.ignore_eos:
        raise InvalidRequestError(
            f"ignore_eos and {kind} exclude each other, as such a text ends; give one",
            param="ignore_eos",
        )
    return kind


def penalises(params: SamplingParams) -> bool:
    """Whether tokens that were seen before are less likely, or more."""
    asked = (params.presence_penalty, params.frequency_penalty, params.repetition_penalty)
    return asked != (0.0, 0.0, 1.0)


def no_unicode() -> InvalidRequestError:
    """Return the error of a text that cannot be encoded."""
    return InvalidRequestError(
        "the text holds half of a surrogate pair, which is no character; remove it"
    )


def too_long(
    count: int, name: str, context: int, most: int, *, at_least: bool = False
) -> ContextLengthError:
    """Return the error of a prompt of `count` tokens, where at most `most` may be sent.

    Args:
        count: Tokens of the prompt.
        name: The model's.
        context: Tokens of prompt and output together.
        most: Tokens that leave room for an answer.
        at_least: The prompt was not tokenized; it has so many or more.
    """
    return ContextLengthError(
        f"the prompt has {_counted(count, at_least)}; the context of model {name!r} holds "
        f"{context}, so send at most {most}",
        param="prompt",
    )


def input_too_long(
    count: int | str, name: str, most: int, *, at_least: bool = False
) -> ContextLengthError:
    """Return the error of an input of `count` tokens that is to be embedded; see `too_long`."""
    return ContextLengthError(
        f"an input has {_counted(count, at_least)}; model {name!r} embeds at most {most}",
        param="input",
    )


def _counted(count: int | str, at_least: bool) -> str:
    return f"at least {count} tokens" if at_least else f"{count} tokens"
