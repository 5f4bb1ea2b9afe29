"""Text to token ids with a transformers tokenizer, in two ways: control tokens count, or not.

A tokenizer's own switch for this (`split_special_tokens`) is state of the tokenizer and holds for
its added tokens only: one whose text is a token of the model as well is found all the same, as
"</s>" is by T5's. Here each way has an encoder of its own, and such a token is taken apart.
"""

from __future__ import annotations

from typing import Any, Protocol

from openllm.errors import EngineStartError


class Encoder(Protocol):
    """Encodes text; adds no token that is not in it. Safe to use from several threads."""

    def encode(self, text: str, *, special: bool) -> list[int]:
        """Encode `text`; `special` reads control tokens in it, else they stay text."""


class FastEncoder:
    """Over the library `tokenizers`; what others set in the tokenizer does not matter."""

    def __init__(self, backend: Any, special: frozenset[int]) -> None:
        """Take the tokenizer `backend` and the ids of its control tokens."""
        self._full = _own(backend, split_special=False)
        self._plain = _own(backend, split_special=True)
        self._model = backend.model
        self._guarded = special - _unknown(self._model)

    def encode(self, text: str, *, special: bool) -> list[int]:
        tokenizer = self._full if special else self._plain
        # As a batch, as only then other threads go on meanwhile.
        (encoding,) = tokenizer.encode_batch_fast([text], add_special_tokens=False)
        ids: list[int] = encoding.ids
        if special or self._guarded.isdisjoint(ids):
            return ids
        return [part for each in ids for part in self._apart(each)]

    def _apart(self, token_id: int) -> list[int]:
        """Return ids that spell the text of a control token and are none."""
        text = self._full.id_to_token(token_id)
        if token_id not in self._guarded or len(text) < 2:
            return [token_id]
        halves = (text[: len(text) // 2], text[len(text) // 2 :])
        tokens = [token for half in halves for token in self._model.tokenize(half)]
        return [part for token in tokens for part in self._apart(token.id)]


class SlowEncoder:
    """Over a tokenizer written in Python, maybe in the model's own folder."""

    def __init__(self, tokenizer: Any, special: frozenset[int]) -> None:
        """Take the tokenizer and the ids of its control tokens."""
        self._tokenizer = tokenizer
        self._guarded = special - {tokenizer.unk_token_id}

    def encode(self, text: str, *, special: bool) -> list[int]:
        ids: list[int] = self._tokenizer.encode(
            text, add_special_tokens=False, split_special_tokens=not special
        )
        if special or self._guarded.isdisjoint(ids):
            return ids
        return [part for each in ids for part in self._apart(each)]

    def _apart(self, token_id: int) -> list[int]:
        text = str(self._tokenizer.convert_ids_to_tokens(token_id))
        if token_id not in self._guarded or len(text) < 2:
            return [token_id]
        halves = (text[: len(text) // 2], text[len(text) // 2 :])
        return [part for half in halves for part in self.encode(half, special=False)]


def _unknown(model: Any) -> set[int]:
    """Return the token that stands for what the model does not know, if it has one."""
    try:
        return {token.id for token in model.tokenize("\U0010fffd")}
    except Exception:  # `tokenizers` raises no narrower class where there is none.
        return set()


def affixes(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Return the tokens that the tokenizer by itself puts before a text and behind it."""
    for text in ("a", "1", "."):
        bare = list(tokenizer.encode(text, add_special_tokens=False))
        full = list(tokenizer.encode(text))
        for at in range(len(full) - len(bare) + 1):
            if bare and full[at : at + len(bare)] == bare:
                return full[:at], full[at + len(bare) :]
    return [], []


def _own(backend: Any, *, split_special: bool) -> Any:
    """Return a tokenizer like `backend` that shares its model, without truncation and padding."""
    own = type(backend)(backend.model)
    if backend.normalizer is not None:
        own.normalizer = backend.normalizer
    if backend.pre_tokenizer is not None:
        own.pre_tokenizer = backend.pre_tokenizer
    added = backend.get_added_tokens_decoder()
    own.add_tokens([added[each] for each in sorted(added)])
    again = own.get_added_tokens_decoder()
    for token_id, token in added.items():
        if token_id not in again or again[token_id].content != token.content:
            raise EngineStartError(
                f"the tokenizer's added token {token.content!r} has the id {token_id}, which"
                " `tokenizers` would not give it; save the tokenizer and load it again"
            )
    own.encode_special_tokens = split_special
    return own
