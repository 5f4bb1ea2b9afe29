"""From the wire's sampling fields and a model's defaults to `SamplingParams`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from openllm.config.model import RequestDefaults
from openllm.server.openai_schema import ChatCompletionRequest, GenerationRequest
from openllm.server.response_format import ResponseFormat
from openllm.types import SamplingParams

_DEFAULTED = (
    "temperature",
    "top_k",
    "top_p",
    "frequency_penalty",
    "presence_penalty",
    "max_tokens",
    "seed",
)
_TAKEN_AS_SENT = ("min_p", "n", "repetition_penalty", "grammar", "ignore_eos")


def sampling_params(
    wire: GenerationRequest, defaults: RequestDefaults, *, logprobs: int | None = None
) -> SamplingParams:
    """Return what the request asks for; what it leaves out comes from the model's defaults.

    Args:
        logprobs: Alternatives wanted per token, which the two APIs ask for differently.
    """
    fields: dict[str, Any] = {}
    for name in _DEFAULTED:
        sent = getattr(wire, name)
        fields[name] = getattr(defaults, name) if sent is None else sent
    fields.update((name, getattr(wire, name)) for name in _TAKEN_AS_SENT)
    fields["stop"] = _stop(wire.stop, defaults)
    fields["stop_token_ids"] = tuple(wire.stop_token_ids or ())
    fields["logit_bias"] = _logit_bias(wire.logit_bias or {})
    fields["json_schema"] = _json_schema(wire.response_format)
    if isinstance(wire, ChatCompletionRequest) and wire.max_completion_tokens is not None:
        fields["max_tokens"] = wire.max_completion_tokens
    return SamplingParams(logprobs=logprobs, **_in_engine_terms(fields))


def _in_engine_terms(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Drop what nobody set; fold values that only the wire has."""
    known = {name: value for name, value in fields.items() if value is not None}
    if known.get("top_k") == -1:
        known["top_k"] = 0
    if known.get("top_p") == 0:  # A default of 0, which the wire does not allow: the likeliest.
        known["top_p"], known["top_k"] = 1.0, 1
    if "seed" in known:
        known["seed"] %= 2**63
    return known


def _stop(sent: str | list[str] | None, defaults: RequestDefaults) -> tuple[str, ...]:
    if sent is None:
        return defaults.stop_sequence
    return (sent,) if isinstance(sent, str) else tuple(sent)


def _logit_bias(sent: Mapping[str, float]) -> dict[int, float]:
    return {int(token_id): bias for token_id, bias in sent.items()}


def _json_schema(form: ResponseFormat | None) -> dict[str, Any] | None:
    if form is None or form.type == "text":
        return None
    if form.json_schema is None:
        return {"type": "object"}
    return form.json_schema.schema_ or {}
