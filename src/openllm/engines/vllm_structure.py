"""Text held to a JSON schema or a grammar: what vLLM is given, once llguidance is known to take it.

vLLM compiles it again in its own process, where a request that fails is lost without a reason, and
one that takes all memory takes the engine with it. JSON is written with ", " and ": " and no other
white space between its parts: free white space has no end.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from openllm.engines.torch_lark import to_lark
from openllm.errors import InvalidRequestError, UnsupportedError
from openllm.types import SamplingParams

MAX_SCHEMA_BYTES = 64 << 10
MAX_SCHEMA_DEPTH = 32
LARGEST = {"minItems": 1000, "maxItems": 10_000}
"""Every item costs time and memory: a billion takes all."""
REMEMBERED = 64

_SPACING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_OPTIONS = "x-guidance"


class Structures:
    """Checks schemas and grammars against one tokenizer, and remembers those that hold."""

    def __init__(self, tokenizer: Any, vocabulary: int) -> None:
        """Take the tokenizer of transformers and the model's number of token ids."""
        self._tokenizer = tokenizer
        self._vocabulary = max(vocabulary, len(tokenizer))
        self._native: Any = None
        self._checked = lru_cache(REMEMBERED)(self._check)

    @property
    def supported(self) -> bool:
        """Whether text can be held to anything: llguidance reads fast tokenizers only."""
        return bool(getattr(self._tokenizer, "is_fast", False))

    def arguments(self, params: SamplingParams) -> dict[str, str]:
        """Return the arguments for vLLM's `StructuredOutputsParams`; may take a second.

        Raises:
            UnsupportedError: The tokenizer cannot be used for it.
            InvalidRequestError: The schema or grammar cannot be followed; `param` says which.
        """
        kind = "grammar" if params.json_schema is None else "json_schema"
        if params.json_schema is not None and params.grammar is not None:
            raise InvalidRequestError(
                "json_schema and grammar exclude each other; give one", param="grammar"
            )
        if params.ignore_eos:
            raise InvalidRequestError(
                f"ignore_eos and {kind} exclude each other, as such a text ends; give one",
                param="ignore_eos",
            )
        if not self.supported:
            raise UnsupportedError(
                "this model has no tokenizer.json, so its text cannot be held to a schema or "
                "grammar",
                param=kind,
            )
        text = params.grammar if params.json_schema is None else _schema_text(params.json_schema)
        return {"json" if kind == "json_schema" else "grammar": self._checked(kind, text)}

    def _check(self, kind: str, text: str) -> str:
        """Return the first form of a schema or grammar that llguidance can follow."""
        from llguidance import LLMatcher

        forms = [text] if kind == "json_schema" else [_lark(form) for form in to_lark(text)]
        read: Callable[[str], str] = (
            LLMatcher.grammar_from_json_schema
            if kind == "json_schema"
            else LLMatcher.grammar_from_lark
        )
        reason = ""
        for form in forms:
            matcher = LLMatcher(self._native_tokenizer(), read(form), log_level=0)
            warnings = [] if matcher.is_error() else matcher.get_grammar_warnings()
            if not matcher.is_error() and not warnings:
                matcher.compute_bitmask()
                if not matcher.is_error():
                    return form
            reason = matcher.get_error() or warnings[0]
        raise _refused(kind, _reason(reason))

    def _native_tokenizer(self) -> Any:
        if self._native is None:
            from llguidance.hf import from_tokenizer

            self._native = from_tokenizer(self._tokenizer, self._vocabulary)
        return self._native


def _lark(grammar: str) -> str:
    """Mark a grammar as Lark, so that nothing in it is taken for GBNF."""
    return "%llguidance {}\n" + grammar


def _schema_text(schema: dict[str, Any]) -> str:
    """Return a schema as JSON, with how it is spaced; raises if it asks for too much."""
    if _OPTIONS in schema:  # Could switch the checking of other keywords off.
        raise _refused(
            "json_schema", f"it holds {_OPTIONS!r}, which is the engine's own; remove it"
        )
    level: list[Any] = [schema]
    for _ in range(MAX_SCHEMA_DEPTH):
        level = [child for part in level for child in _children(part)]
    if level:
        raise _refused(
            "json_schema", f"it is nested more than {MAX_SCHEMA_DEPTH} levels deep; flatten it"
        )
    try:
        text = json.dumps(schema | {_OPTIONS: _SPACING}, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise _refused("json_schema", f"it is no JSON: {error}") from None
    if len(text) > MAX_SCHEMA_BYTES:
        raise _refused("json_schema", f"it has {len(text)} bytes; the limit is {MAX_SCHEMA_BYTES}")
    return text


def _children(part: Any) -> list[Any]:
    """Return the objects and arrays directly in `part`, whose counts are checked on the way."""
    if isinstance(part, dict):
        for name, limit in LARGEST.items():
            count = part.get(name)
            if isinstance(count, (int, float)) and count > limit:
                raise _refused("json_schema", f"{name} is {count}; it must be at most {limit}")
        part = list(part.values())
    return [child for child in part if isinstance(child, (dict, list))]


def _reason(message: str) -> str:
    """Return what llguidance says, in one line, with keywords by their names."""
    if keys := re.match(r"Unimplemented keys: \[(.*)\]", message):
        return f"it uses {keys[1]}, which cannot be followed; remove what is named"
    if message.startswith("NoExtension"):
        return "no text satisfies it"
    line = message.partition("\n")[0][:200]
    return line.replace("min/maxProperties", "minProperties and maxProperties are")


def _refused(kind: str, reason: str) -> InvalidRequestError:
    name = "JSON schema" if kind == "json_schema" else "grammar"
    return InvalidRequestError(f"the {name} cannot be followed: {reason}", param=kind)
