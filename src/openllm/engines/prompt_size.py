"""How long a prompt is before it is tokenized, which takes seconds for each of its megabytes.

A text of so many bytes has at least as many tokens as the longest token of the vocabulary goes into
it, if the tokenizer leaves nothing out. What cannot fit by that is refused unread; other long texts
are read in a thread, so that no other request waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import TypeVar

from openllm.engines.request_checks import input_too_long, too_long
from openllm.types import Capabilities, Prompt

T = TypeVar("T")

LONG_TEXT = 20_000
"""Characters, or ids, that are read in a thread when there are more: they hold the event loop."""


def is_long(*prompts: Prompt) -> bool:
    """Whether these take a while to be read."""
    return sum(_characters(prompt) for prompt in prompts) > LONG_TEXT


async def aside(apart: bool, work: Callable[[], T]) -> T:
    """Do some work in a thread, or at once."""
    return await asyncio.to_thread(work) if apart else work()


def least_tokens(prompt: Prompt, longest: int) -> int:
    """Return how many tokens a prompt has at least; of its text, 0 where `longest` is.

    Args:
        prompt: The prompt, not tokenized yet.
        longest: See `Capabilities.longest_token`.
    """
    pieces = (prompt,) if isinstance(prompt, str) else prompt
    texts = [piece for piece in pieces if isinstance(piece, str)]
    ids = len(pieces) - len(texts)
    if not longest:
        return ids
    size = sum(map(_bytes, texts))
    return ids + -(-size // longest)


def check_prompt(prompt: Prompt, can: Capabilities, name: str) -> None:
    """Raise `ContextLengthError` for a prompt that leaves no room for an answer, as far as seen."""
    least, most = least_tokens(prompt, can.longest_token), can.context_length - 1
    if least > most:
        raise too_long(least, name, can.context_length, most, at_least=True)


def check_inputs(inputs: Iterable[Prompt], can: Capabilities, name: str) -> None:
    """Raise `ContextLengthError` for an input that is too long to be embedded, as far as seen."""
    most = can.max_embedding_tokens
    for least in (least_tokens(each, can.longest_token) for each in inputs) if most else ():
        if least > most:
            raise input_too_long(least, name, most, at_least=True)


def _characters(prompt: Prompt) -> int:
    if isinstance(prompt, str):
        return len(prompt)
    return sum(len(part) if isinstance(part, str) else 1 for part in prompt)


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
