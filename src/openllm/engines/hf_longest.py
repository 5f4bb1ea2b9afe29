"""The most text that one token of a transformers tokenizer stands for.

It is known only where each byte of a text comes to be in some token. A tokenizer that strips or
collapses spaces, takes one token for a run of what it does not know, or rewrites characters into
fewer of them could make a few tokens of any text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from openllm.engines.hf_pieces import byte_level_alphabet

NFC_SHRINKS = 4
"""Bytes that become one at most: 7 become 2 where the characters of U+0390 are written apart."""

_KEEP_TEXT = frozenset(("ByteLevel", "Digits", "Metaspace", "UnicodeScripts"))
_KEEP_TEXT_BY_BEHAVIOR = frozenset(("Split", "Punctuation"))


def longest_token(tokenizer: Any) -> int:
    """Return the most bytes of a text that one token stands for; 0 where that has no bound."""
    if not tokenizer.is_fast:
        return 0
    backend = tokenizer.backend_tokenizer
    normalizers = list(_parts(backend.normalizer, "normalizers"))
    pre_tokenizers = list(_parts(backend.pre_tokenizer, "pretokenizers"))
    added = backend.get_added_tokens_decoder().values()
    if any(token.lstrip or token.rstrip for token in added):
        return 0  # It takes all the space beside it.
    if not all(map(_keeps_text, pre_tokenizers)):
        return 0
    shrinks = 1
    for part in normalizers:
        shrinks *= _shrinkage(part)
    vocabulary = backend.get_vocab(with_added_tokens=False)
    by_bytes = any(part["type"] == "ByteLevel" for part in (*normalizers, *pre_tokenizers))
    if not _knows_every_byte(backend.model, vocabulary, by_bytes):
        return 0
    # Where characters stand for bytes, a token has as many.
    longest = max(map(len, vocabulary) if by_bytes else (len(each.encode()) for each in vocabulary))
    return shrinks * max((longest, *(_size(token, backend.normalizer) for token in added)))


def _size(added: Any, normalizer: Any) -> int:
    """Return the most bytes that an added token stands for, of a text that is normalized."""
    written = [added.content]
    if added.normalized and normalizer is not None:
        written.append(normalizer.normalize_str(added.content))
    return max(len(each.encode()) for each in written)


def _parts(component: Any, name: str) -> Iterator[Mapping[str, Any]]:
    """Yield the parts of a component of `tokenizers`, as in `tokenizer.json`."""
    left = [] if component is None else [json.loads(component.__getstate__())]
    while left:
        part = left.pop(0)
        if part["type"] == "Sequence":
            left = [*part[name], *left]
        else:
            yield part


def _keeps_text(part: Mapping[str, Any]) -> bool:
    """Whether a pre-tokenizer passes on all of a text."""
    if part["type"] in _KEEP_TEXT_BY_BEHAVIOR:
        return str(part["behavior"]) != "Removed"
    return part["type"] in _KEEP_TEXT


def _shrinkage(part: Mapping[str, Any]) -> int:
    """Return how many bytes a normalizer makes one of at most; 0 where that has no bound."""
    kind = part["type"]
    if kind == "Replace":
        old, new = part["pattern"].get("String"), part["content"]
        return int(old is not None and len(new.encode()) >= len(old.encode()))
    return {"ByteLevel": 1, "Prepend": 1, "NFC": NFC_SHRINKS}.get(kind, 0)


def _knows_every_byte(model: Any, vocabulary: Mapping[str, int], by_bytes: bool) -> bool:
    """Whether what is no token otherwise is one for each of its bytes."""
    if type(model).__name__ != "BPE":
        return False
    if model.continuing_subword_prefix or model.end_of_word_suffix:
        return False  # A byte is looked up with it, and may be no token so.
    if by_bytes:
        return all(char in vocabulary for char, _ in byte_level_alphabet())
    return bool(model.byte_fallback) and all(f"<0x{byte:02X}>" in vocabulary for byte in range(256))
