"""Text held to a JSON schema or a grammar: the masks that llguidance puts on the batch's logits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from openllm.engines.grammar_guidance import (
    asked_of,
    follow,
    read_tokenizer,
    reason_of,
    unsupported,
)
from openllm.errors import EngineError, UnsupportedError
from openllm.types import SamplingParams

REMEMBERED = 16
"""Grammars kept compiled, for the sequences of a request and for the next request."""


class GrammarMatcher:
    """Where one sequence stands in its schema or grammar.

    Attributes:
        error: Why it can be followed no further, if so; the sequence has to end.
    """

    def __init__(self, native: Any, executor: Any) -> None:
        """Wrap an `LLMatcher` at its beginning, and the `LLExecutor` that fills its masks."""
        self.native = native
        self.executor = executor
        self.error: EngineError | None = None

    @property
    def finished(self) -> bool:
        """Only an end token can follow."""
        return self.error is None and bool(self.native.is_stopped())

    def accept(self, token_id: int) -> None:
        """Go past a token; an end token fits wherever the text may end.

        Raises:
            EngineError: The token does not fit, or a limit of llguidance was met; `error` says so.
        """
        if self.error is None:
            self.native.consume_token(token_id)
            self.check()
        if self.error is not None:
            raise self.error

    def check(self) -> None:
        """Set `error` if llguidance gave up: from then on it would allow the end tokens alone."""
        if self.error is None and self.native.is_error():
            reason = reason_of(self.native.get_error())
            self.error = EngineError(
                f"the text could be held to its schema or grammar no further: {reason}; simplify it"
            )


def apply_masks(logits: torch.Tensor, rows: Sequence[tuple[int, GrammarMatcher]]) -> None:
    """Set the logits of tokens that cannot follow to -inf; of all, if the matcher has an error.

    Args:
        logits: [n, vocab], changed in place.
        rows: Rows of it with their matchers, no row twice.
    """
    vocab = logits.shape[1]
    masks = np.zeros((len(rows), (vocab + 31) // 32), dtype=np.int32)
    live = [(matcher.native, at) for at, (_, matcher) in enumerate(rows) if matcher.error is None]
    if live:
        executor = rows[0][1].executor
        executor.unsafe_compute_mask_ptr(
            live, masks.ctypes.data, masks.shape[1] * masks.itemsize, len(masks)
        )
    for at, (_, matcher) in enumerate(rows):
        matcher.check()
        if matcher.error is not None:
            masks[at] = 0
    bits = np.unpackbits(np.invert(masks).view(np.uint8), axis=1, count=vocab, bitorder="little")
    forbidden = torch.from_numpy(bits.view(np.bool_)).to(logits.device)
    index = torch.tensor([row for row, _ in rows], device=logits.device)
    logits[index] = logits[index].masked_fill_(forbidden, -torch.inf)


class GrammarCompiler:
    """Makes matchers for the vocabulary of one model.

    Attributes:
        tokenizer: The `LLTokenizer`, None if the model's own cannot be read.
        vocab_size: Width of the logits.
    """

    def __init__(self, tokenizer: Any, vocab_size: int, eos_ids: Iterable[int]) -> None:
        """Read the vocabulary, which takes some 10 ms for every 10,000 tokens.

        Args:
            tokenizer: A tokenizer of transformers.
            vocab_size: Width of the logits; may exceed the tokenizer's vocabulary.
            eos_ids: Tokens that end a text.
        """
        self.vocab_size = vocab_size
        self.tokenizer: Any = None
        self._lack = ""
        ends = list(eos_ids)
        try:
            if not ends:
                raise unsupported("this model has no end token")
            self.tokenizer = read_tokenizer(tokenizer, vocab_size, ends)
        except UnsupportedError as error:
            self._lack = error.message
            return
        from llguidance import LLExecutor

        self._executor = LLExecutor()
        self._compiled = lru_cache(REMEMBERED)(lambda asked: follow(self.tokenizer, asked).matcher)

    def compile(self, params: SamplingParams) -> GrammarMatcher | None:
        """Return a matcher for one sequence, None if its text is free; may take a second.

        Raises:
            InvalidRequestError: The schema or grammar cannot be followed; `param` says which.
            UnsupportedError: No text of this model can be held to one.
        """
        asked = asked_of(params)
        if asked is None:
            return None
        if self._lack:
            raise UnsupportedError(self._lack, param=asked.kind)
        return GrammarMatcher(self._compiled(asked).deep_copy(), self._executor)
