"""Requests in llama.cpp's own terms, and nothing in them that llama.cpp could choke on.

Every field that reaches native code is written here, in range; there is no way through for others.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from openllm.engines.grammar_gbnf import MAX_BYTES
from openllm.engines.json_schemas import spaced
from openllm.engines.request_checks import (
    check_limits,
    check_ranges,
    check_token,
    check_tokens,
    no_unicode,
    penalises,
    structure_of,
)
from openllm.errors import InvalidRequestError, UnsupportedError
from openllm.types import Prompt, SamplingParams

MAX_INT32 = 2**31 - 1
LIMITS = {
    "temperature": (0.0, 100.0),
    "presence_penalty": (-100.0, 100.0),
    "frequency_penalty": (-100.0, 100.0),
    "repetition_penalty": (0.01, 100.0),
    "logprobs": (0, 128),
}
"""Values that are passed on, where those are fewer than others take."""
# llama.cpp draws a seed of its own for 2**32 - 1, which seed + i must not reach for any i < n.
SEED_RANGE = 2**32 - 1 - 1024
TRUNCATING = frozenset(("top_k", "top_p", "min_p"))
_OVERWHELMING = 1e6


class LoadedModel(Struct, frozen=True, kw_only=True):
    """What requests must know of the loaded model.

    Attributes:
        name: Name that requests use.
        vocabulary: Number of token ids.
        context: Tokens of prompt and output that one sequence holds.
        slots: Sequences generated at once.
        bos: Text of the token that the tokenizer puts first, "" if it puts none.
        never_in_json: A token that no JSON as we space it contains, or None if there is none.
        adapters: The names of the LoRA adapters, in the order in which they were loaded.
        longest_token: See `Capabilities.longest_token`.
    """

    name: str
    vocabulary: int
    context: int
    slots: int
    bos: str
    never_in_json: int | None
    adapters: tuple[str, ...] = ()
    longest_token: int = 0


def encode(body: dict[str, Any]) -> bytes:
    """Encode a request of ours as JSON.

    Raises:
        InvalidRequestError: A text in it is no Unicode.
    """
    try:
        return msgspec.json.encode(body)
    except UnicodeEncodeError:
        raise no_unicode() from None


def generation_body(
    prompt: Prompt, params: SamplingParams, model: LoadedModel, adapter: str = ""
) -> dict[str, Any]:
    """Return the body of a streamed completion.

    Raises:
        InvalidRequestError: A value is out of range; `param` names it.
    """
    check_ranges(params)
    check_limits(params, LIMITS, "llama.cpp")
    check_tokens(params, model.vocabulary)
    body: dict[str, Any] = {
        "prompt": native_prompt(prompt, model, "prompt"),
        "stream": True,
        "return_progress": True,  # One event a batch of the prompt, so that it can be aborted.
        "cache_prompt": True,
        "n_predict": -1 if params.max_tokens is None else min(params.max_tokens, MAX_INT32),
        "n_probs": 1,  # Token ids are reported beside probabilities only.
    }
    if params.logprobs is not None:
        body["n_probs"] = max(1, params.logprobs)
    if params.n > model.slots:
        raise InvalidRequestError(
            f"n={params.n} is more than the {model.slots} sequences that the model makes at once; "
            "start it with a larger max_concurrency",
            param="n",
        )
    if params.n != 1:
        body["n"] = params.n
    body |= _sampling(params, model)
    if params.logprobs is None and not TRUNCATING.isdisjoint(body["samplers"]):
        # The model's own probabilities take a softmax over the vocabulary (0.3 ms a token for
        # 49,152 ids); those of the few candidates that the samplers left take nothing.
        body["post_sampling_probs"] = True
    body |= _constraint(params, model)
    body |= _bias(params, model)
    if model.adapters:
        # All of them, also those that are off: with an empty list llama.cpp would go on with what
        # another adapter has read of the prompt.
        body["lora"] = [
            {"id": number, "scale": float(name == adapter)}
            for number, name in enumerate(model.adapters)
        ]
    return body


def native_prompt(prompt: Prompt, model: LoadedModel, param: str) -> str | list[str | int]:
    """Return a prompt as llama.cpp takes it: a text, or ids and texts by turns.

    Neighbouring texts become one, as a list of texts alone would be several prompts. The token
    that the tokenizer puts before a text is not doubled if the text begins with it already.

    Raises:
        InvalidRequestError: The prompt is empty, or holds an id that is no token.
    """
    pieces: list[str | int] = []
    for piece in (prompt,) if isinstance(prompt, str) else prompt:
        if isinstance(piece, str):
            if pieces and isinstance(pieces[-1], str):
                pieces[-1] += piece
            elif piece:
                pieces.append(piece)
        else:
            pieces.append(check_token(piece, model.vocabulary, param))
    if not pieces:
        raise InvalidRequestError(f"{param} is empty; give at least one token", param=param)
    first = pieces[0]
    if isinstance(first, str) and model.bos and first.startswith(model.bos) and first != model.bos:
        pieces[0] = first = first[len(model.bos) :]
    return first if len(pieces) == 1 and isinstance(first, str) else pieces


def _sampling(params: SamplingParams, model: LoadedModel) -> dict[str, Any]:
    """Return the sampler chain: exactly the named samplers run, in this order."""
    chain: dict[str, Any] = {"mirostat": 0, "dynatemp_range": 0.0}
    samplers = []
    if penalises(params):
        samplers.append("penalties")
        chain |= _penalties(params, model)
    if params.temperature == 0:
        samplers += ["top_k", "temperature"]
        return chain | {"samplers": samplers, "top_k": 1, "temperature": 0.0}
    for name, value, neutral in (
        ("top_k", min(params.top_k, MAX_INT32), 0),
        ("top_p", params.top_p, 1.0),
        ("min_p", params.min_p, 0.0),
    ):
        if value != neutral:
            samplers.append(name)
            chain[name] = value
    samplers.append("temperature")
    chain |= {"samplers": samplers, "temperature": params.temperature}
    if params.seed is not None:
        chain["seed"] = params.seed % SEED_RANGE
    return chain


def _penalties(params: SamplingParams, model: LoadedModel) -> dict[str, Any]:
    return {
        "presence_penalty": params.presence_penalty,
        "frequency_penalty": params.frequency_penalty,
        "repeat_penalty": params.repetition_penalty,
        "repeat_last_n": model.context,  # All of prompt and output.
    }


def _bias(params: SamplingParams, model: LoadedModel) -> dict[str, Any]:
    biases: list[tuple[int | None, float]] = list(params.logit_bias.items())
    if params.json_schema is not None:  # Wins as soon as llama.cpp drops the schema.
        biases.append((model.never_in_json, _OVERWHELMING))
    body: dict[str, Any] = {"ignore_eos": True} if params.ignore_eos else {}
    return body | {"logit_bias": biases} if biases else body


def _constraint(params: SamplingParams, model: LoadedModel) -> dict[str, Any]:
    structure_of(params)
    if params.json_schema is not None:
        return {"json_schema": _spaced(params.json_schema, model)}
    if params.grammar is None:
        return {}
    size = len(params.grammar.encode("utf-8", "replace"))
    if not 1 <= size <= MAX_BYTES:
        raise InvalidRequestError(
            f"grammar has {size} bytes; it must have 1 to {MAX_BYTES}", param="grammar"
        )
    if "\0" in params.grammar:  # Would end it, and an empty grammar is none.
        raise InvalidRequestError("grammar holds the character NUL; remove it", param="grammar")
    if params.grammar.startswith("%llguidance"):
        raise InvalidRequestError("grammar must be GBNF, not llguidance's Lark", param="grammar")
    return {"grammar": params.grammar}


def _spaced(schema: dict[str, Any], model: LoadedModel) -> dict[str, Any]:
    if model.never_in_json is None:
        raise UnsupportedError(
            f"the tokenizer of model {model.name!r} has no line break, which is needed to hold it "
            "to JSON; use another model",
            param="json_schema",
        )
    return spaced(schema)
