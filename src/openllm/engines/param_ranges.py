"""The ranges of sampling parameters that engines check themselves."""

from __future__ import annotations

import math

from openllm.errors import InvalidRequestError
from openllm.types import SamplingParams


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
