"""Text held to a JSON schema or a grammar by llguidance, for engines that let it choose tokens.

What llguidance cannot follow is refused when the request comes, and so is what it would work at
for longer than its own limits say.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

from openllm.engines.grammar_lark import to_lark
from openllm.engines.json_schemas import spaced
from openllm.engines.request_checks import Structure, structure_of
from openllm.errors import InvalidRequestError, UnsupportedError
from openllm.types import SamplingParams

STACK = 256 << 20
"""Bytes of stack for compiling, of address space alone: rules nested by the thousand overflow
what threads commonly have, which would end the process."""

_REASONS = {
    "min/maxProperties": "minProperties and maxProperties need all keys of 'properties' to be "
    "required",
    "oneOf": "oneOf is supported only if its schemas exclude each other; use anyOf",
    "Unable to determine": "the patterns and lengths joined in it are too complex; leave some out",
    "panic": "it is too large; simplify it",
    "NoExtension": "no text satisfies it",
}
"""What llguidance's messages begin with, in words that say what to do."""
_STACK_LOCK = threading.Lock()


class Asked(NamedTuple):
    """What a text is held to: a JSON schema as JSON, or a grammar as GBNF."""

    kind: Structure
    text: str


class Followed(NamedTuple):
    """The form of it that llguidance can follow, a schema or Lark, and the `LLMatcher` at its
    beginning, whose first mask is known to be computable."""

    form: str
    matcher: Any


def asked_of(params: SamplingParams) -> Asked | None:
    """Return what a text is to be held to, None if it is free.

    Raises:
        InvalidRequestError: It excludes another parameter, or the schema asks for too much.
    """
    kind = structure_of(params)
    if kind is None:
        return None
    if params.json_schema is None:
        return Asked(kind, params.grammar or "")
    return Asked(kind, json.dumps(spaced(params.json_schema), ensure_ascii=False))


def is_readable(tokenizer: Any) -> bool:
    """Whether llguidance may read a tokenizer of transformers: it reads fast ones only."""
    return bool(getattr(tokenizer, "is_fast", False))


def read_tokenizer(tokenizer: Any, vocabulary: int, ends: Sequence[int] | None = None) -> Any:
    """Return the `LLTokenizer`; takes some 10 ms for every 10,000 tokens.

    Args:
        tokenizer: A tokenizer of transformers.
        vocabulary: Width of the logits; may exceed the tokenizer's vocabulary.
        ends: Tokens that end a text; the tokenizer's own if None.

    Raises:
        UnsupportedError: It cannot be read.
    """
    if not is_readable(tokenizer):
        raise unsupported("this model has no tokenizer.json, or runs with tokenizer_mode slow")
    try:
        from llguidance.hf import from_tokenizer
    except ImportError:
        raise unsupported("llguidance is missing (install open-llm-server[torch])") from None
    width = max(vocabulary, len(tokenizer))
    try:
        return from_tokenizer(tokenizer, n_vocab=width, eos_token=ends)
    except ValueError as error:
        reason = str(error)[:60]
        raise unsupported(f"llguidance cannot read this model's tokenizer ({reason})") from None


def unsupported(lack: str, kind: Structure | None = None) -> UnsupportedError:
    """Return the error of a model whose text can be held to nothing."""
    return UnsupportedError(
        f"{lack}, so its text cannot be held to a schema or grammar", param=kind
    )


def follow(tokenizer: Any, asked: Asked) -> Followed:
    """Compile what is asked, in a thread with a deep stack; may take a second.

    Args:
        tokenizer: What `read_tokenizer` gave.
        asked: What `asked_of` gave.

    Raises:
        InvalidRequestError: It cannot be followed; `param` says which it is.
    """
    done: Future[Followed] = Future()

    def run() -> None:
        try:
            done.set_result(_follow(tokenizer, asked))
        except Exception as error:
            done.set_exception(error)

    with _STACK_LOCK:
        before = threading.stack_size(STACK)
        try:
            threading.Thread(target=run, name="grammar", daemon=True).start()
        finally:
            threading.stack_size(before)
    return done.result()


def _follow(tokenizer: Any, asked: Asked) -> Followed:
    from llguidance import LLMatcher

    forms, read = [asked.text], LLMatcher.grammar_from_json_schema
    if asked.kind == "grammar":
        forms, read = to_lark(asked.text), LLMatcher.grammar_from_lark
    message = ""
    for form in forms:
        matcher = LLMatcher(tokenizer, read(form), log_level=0)
        warnings = [] if matcher.is_error() else matcher.get_grammar_warnings()
        if not matcher.is_error() and not warnings:
            matcher.compute_bitmask()
            if not matcher.is_error():
                return Followed(form, matcher)
        message = matcher.get_error() or warnings[0]
    name = "grammar" if asked.kind == "grammar" else "JSON schema"
    raise InvalidRequestError(
        f"the {name} cannot be followed: {reason_of(message)}", param=asked.kind
    )


def reason_of(message: str) -> str:
    """Return what llguidance says, in one line and without its own options and state."""
    if keys := re.match(r"Unimplemented keys: \[(.*)\]", message):
        names = keys[1].replace('"', "'")
        return f"it uses {names}, which cannot be followed; remove what is named"
    if message.startswith("regex parse error"):
        return f"a pattern cannot be used: {message.rpartition('error: ')[2].strip()}"
    plain = (words for start, words in _REASONS.items() if message.startswith(start))
    return next(plain, message.partition("\n")[0][:200])
