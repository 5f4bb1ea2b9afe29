"""Text held to a JSON schema or a grammar, by llguidance.

JSON is written with ", " and ": " and no other white space between its parts: free white space
has no end, and weak models never leave it. What llguidance cannot follow is refused when the
request comes, and so is what it would work at for longer than its own limits say.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch

from openllm.engines.torch_lark import to_lark
from openllm.engines.torch_schemas import checked
from openllm.errors import EngineError, InvalidRequestError, UnsupportedError
from openllm.types import SamplingParams

STACK = 256 << 20
"""Bytes of stack for compiling, of address space alone: rules nested by the thousand overflow
what threads commonly have, which would end the process."""
REMEMBERED = 16
"""Grammars kept compiled, for the sequences of a request and for the next request."""

_SPACING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_STACK_LOCK = threading.Lock()
_Kind = Literal["json_schema", "grammar"]


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
            reason = _reason(self.native.get_error())
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
            tokenizer: A fast tokenizer of transformers.
            vocab_size: Width of the logits; may exceed the tokenizer's vocabulary.
            eos_ids: Tokens that end a text.
        """
        self.vocab_size = vocab_size
        self.tokenizer: Any = None
        self._lack = ""
        ends = list(eos_ids)
        if not getattr(tokenizer, "is_fast", False):
            self._lack = "this model has no tokenizer.json"
        elif not ends:
            self._lack = "this model has no end token"
        else:
            self._prepare(tokenizer, ends)

    def _prepare(self, tokenizer: Any, ends: list[int]) -> None:
        try:
            from llguidance import LLExecutor
            from llguidance.hf import from_tokenizer
        except ImportError:
            self._lack = "llguidance is missing (install open-llm-server[torch])"
            return
        width = max(self.vocab_size, len(tokenizer))
        try:
            self.tokenizer = from_tokenizer(tokenizer, n_vocab=width, eos_token=ends)
        except ValueError as error:
            self._lack = f"llguidance cannot read this model's tokenizer ({str(error)[:60]})"
            return
        self._executor = LLExecutor()
        self._compiled = lru_cache(REMEMBERED)(lambda *grammar: _deep(self._compile, *grammar))

    def compile(self, params: SamplingParams) -> GrammarMatcher | None:
        """Return a matcher for one sequence, None if its text is free; may take a second.

        Raises:
            InvalidRequestError: The schema or grammar cannot be followed; `param` says which.
            UnsupportedError: No text of this model can be held to one.
        """
        if params.json_schema is None and params.grammar is None:
            return None
        if params.json_schema is not None and params.grammar is not None:
            raise InvalidRequestError(
                "json_schema and grammar exclude each other; give one", param="grammar"
            )
        kind: _Kind = "grammar" if params.json_schema is None else "json_schema"
        if self._lack:
            raise UnsupportedError(
                f"{self._lack}, so its text cannot be held to a {kind}", param=kind
            )
        if params.ignore_eos:
            raise InvalidRequestError(
                f"ignore_eos and {kind} exclude each other, as such a text ends; give one",
                param="ignore_eos",
            )
        text = params.grammar if params.json_schema is None else checked(params.json_schema)
        return GrammarMatcher(self._compiled(kind, text).deep_copy(), self._executor)

    def _compile(self, kind: _Kind, text: str) -> Any:
        """Return an `LLMatcher` whose first mask is known to be computable."""
        from llguidance import LLMatcher

        if kind == "grammar":
            forms = [LLMatcher.grammar_from_lark(form) for form in to_lark(text)]
        else:
            forms = [LLMatcher.grammar_from_json_schema(text, overrides=_SPACING)]
        reason = ""
        for form in forms:
            matcher = LLMatcher(self.tokenizer, form, log_level=0)
            warnings = [] if matcher.is_error() else matcher.get_grammar_warnings()
            if not matcher.is_error() and not warnings:
                matcher.compute_bitmask()
                if not matcher.is_error():
                    return matcher
            reason = _reason(matcher.get_error() or warnings[0])
        name = "JSON schema" if kind == "json_schema" else "grammar"
        raise InvalidRequestError(f"the {name} cannot be followed: {reason}", param=kind)


def _deep(work: Callable[..., Any], *args: Any) -> Any:
    """Return `work(*args)`, done in a thread with a deep stack."""
    done: Future[Any] = Future()

    def run() -> None:
        try:
            done.set_result(work(*args))
        except Exception as error:
            done.set_exception(error)

    with _STACK_LOCK:
        before = threading.stack_size(STACK)
        try:
            threading.Thread(target=run, name="grammar", daemon=True).start()
        finally:
            threading.stack_size(before)
    return done.result()


def _reason(message: str) -> str:
    """Return what llguidance says, in one line and without its own options and state."""
    if keys := re.match(r"Unimplemented keys: \[(.*)\]", message):
        names = keys[1].replace('"', "'")
        return f"it uses {names}, which cannot be followed; remove what is named"
    if message.startswith("min/maxProperties"):
        return "minProperties and maxProperties need all keys of 'properties' to be required"
    if message.startswith("oneOf"):
        return "oneOf is supported only if its schemas exclude each other; use anyOf"
    if message.startswith("regex parse error"):
        return f"a pattern cannot be used: {message.rpartition('error: ')[2].strip()}"
    if message.startswith("Unable to determine"):
        return "the patterns and lengths joined in it are too complex; leave some out"
    if message.startswith("panic"):
        return "it is too large; simplify it"
    if message.startswith("NoExtension"):
        return "no text satisfies it"
    return message.partition("\n")[0][:200]
