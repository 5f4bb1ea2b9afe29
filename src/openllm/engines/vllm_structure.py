"""Text held to a JSON schema or a grammar: what vLLM is given, once llguidance is known to take it.

vLLM compiles it again in its own process, where a request that fails is lost without a reason, and
one that takes all memory or stack takes the engine with it.
"""

from __future__ import annotations

from functools import cached_property, lru_cache
from typing import Any

from openllm.engines.grammar_guidance import (
    Asked,
    asked_of,
    follow,
    is_readable,
    read_tokenizer,
    unsupported,
)
from openllm.types import SamplingParams

REMEMBERED = 64

_LARK = "%llguidance {}\n"
"""Marks a grammar as Lark, so that nothing in it is taken for GBNF."""


class Structures:
    """Checks schemas and grammars against one tokenizer, and remembers those that hold."""

    def __init__(self, tokenizer: Any, vocabulary: int) -> None:
        """Take the tokenizer of transformers and the model's number of token ids."""
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        self._checked = lru_cache(REMEMBERED)(self._check)

    @property
    def supported(self) -> bool:
        """Whether text can be held to anything."""
        return is_readable(self._tokenizer)

    def arguments(self, params: SamplingParams) -> dict[str, str]:
        """Return the arguments for vLLM's `StructuredOutputsParams`; may take a second.

        Raises:
            UnsupportedError: The tokenizer cannot be used for it.
            InvalidRequestError: The schema or grammar cannot be followed; `param` says which.
        """
        asked = asked_of(params)
        if asked is None:
            return {}
        if not self.supported:
            raise unsupported("this model has no tokenizer.json", asked.kind)
        return self._checked(asked)

    def _check(self, asked: Asked) -> dict[str, str]:
        form = follow(self._native, asked).form
        return {"grammar": _LARK + form} if asked.kind == "grammar" else {"json": form}

    @cached_property
    def _native(self) -> Any:
        return read_tokenizer(self._tokenizer, self._vocabulary)
