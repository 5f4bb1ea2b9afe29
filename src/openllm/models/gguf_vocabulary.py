"""The vocabulary of a GGUF file: its size and the tokens that mean more than text."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence

from msgspec import Struct

from openllm.models.gguf_layout import FLOAT32, INT8, INT32, STRING, UINT8, Array
from openllm.models.gguf_metadata import Metadata
from openllm.models.gguf_window import Window, shown

MAX_TOKENS = 1 << 20
MAX_CONTROL_TOKENS = 131_072
MAX_TOKEN_BYTES = 1024
_TOKENIZER = "tokenizer.ggml."

# Element types llama.cpp takes for granted in the arrays of a vocabulary.
_ARRAY_KINDS = {
    "tokens": (STRING,),
    "token_type": (INT32,),
    "scores": (FLOAT32,),
    "merges": (STRING,),
    "precompiled_charsmap": (UINT8, INT8),
}

# llama.cpp lets these pre-tokenizers begin a prompt with BOS where the file does not say.
_PRE_WITH_BOS = frozenset(
    (
        "chameleon", "falcon-h1", "falcon3", "gemma4", "jina-v5-nano", "lfm2", "llama-bpe",
        "llama-v3", "llama3", "midm-2.0", "pixtral", "tekken",
    )
)  # fmt: skip

_CONTROL, _USER_DEFINED = 3, 4
"""Token types whose text stands for one token wherever it appears."""


class Vocabulary(Struct, frozen=True, kw_only=True):
    """What a file says of text; the fields of `openllm.models.gguf.GgufHeader` explain them."""

    size: int = 0
    bos_id: int | None = None
    eos_id: int | None = None
    bos: str = ""
    eos: str = ""
    chat_template: str = ""
    add_bos: bool = False
    control_tokens: tuple[str, ...] = ()


def read_vocabulary(window: Window, metadata: Metadata) -> Vocabulary:
    """Read and check all that a file says of text; fails as `window` does."""
    chat_template, add_bos = metadata.text("tokenizer.chat_template"), _adds_bos(metadata)
    arrays = {name: metadata.array(_TOKENIZER + name, _ARRAY_KINDS[name]) for name in _ARRAY_KINDS}
    tokens, types, scores = arrays["tokens"], arrays["token_type"], arrays["scores"]
    if tokens is None:
        return Vocabulary(chat_template=chat_template, add_bos=add_bos)
    # llama.cpp reads as many types and scores as there are tokens, whatever the arrays hold.
    for name, other in (("types", types), ("scores", scores)):
        if other is not None and other.count != tokens.count:
            window.fail(f"is damaged: {tokens.count} tokens have {other.count} {name}")
    marked = _marked_ids(window, types) if types else {}
    bos, eos = (_token_id(metadata, name, tokens.count) for name in ("bos", "eos"))
    texts = _tokens(window, tokens)
    controls = (
        text
        for index, kind in marked.items()
        if (text := _text(window, texts, index)).strip(" \t\r\n\u2581")
        and (kind == _CONTROL or text in chat_template)
    )
    return Vocabulary(
        size=tokens.count,
        bos_id=bos,
        eos_id=eos,
        bos="" if bos is None else _text(window, texts, bos),
        eos="" if eos is None else _text(window, texts, eos),
        chat_template=chat_template,
        add_bos=add_bos,
        control_tokens=tuple(controls),
    )


def _marked_ids(window: Window, types: Array) -> dict[int, int]:
    window.seek(types.position)
    values = array("i", window.take(4 * types.count))
    if sys.byteorder == "big":
        values.byteswap()
    kinds = (_CONTROL, _USER_DEFINED)
    marked = {index: value for index, value in enumerate(values) if value in kinds}
    if len(marked) > MAX_CONTROL_TOKENS:
        window.fail(f"has {len(marked)} control tokens; at most {MAX_CONTROL_TOKENS} are supported")
    return marked


def _tokens(window: Window, tokens: Array) -> list[bytes]:
    """Return all tokens; fail for two that are the same, with which llama.cpp aborts the process.

    Empty ones it tells apart.
    """
    if tokens.count > MAX_TOKENS:
        window.fail(f"has {tokens.count} tokens; at most {MAX_TOKENS} are supported")
    window.seek(tokens.position)
    texts = window.strings(tokens.count, MAX_TOKEN_BYTES, "the token")
    if len(set(texts)) + texts.count(b"") - (b"" in texts) < len(texts):
        first: dict[bytes, int] = {}
        for index, text in enumerate(texts):
            if text and first.setdefault(text, index) != index:
                same = shown(text.decode("utf-8", "replace"))
                window.fail(f"is damaged: its tokens {first[text]} and {index} are both {same}")
    return texts


def _text(window: Window, tokens: Sequence[bytes], index: int) -> str:
    try:
        return tokens[index].decode()
    except UnicodeDecodeError:
        window.fail(f"is damaged: the token {index} is not UTF-8")


def _token_id(metadata: Metadata, name: str, size: int) -> int | None:
    """Return an id; None for one outside of the vocabulary, which llama.cpp ignores as well."""
    value = metadata.integer(f"{_TOKENIZER}{name}_token_id", most=2**32 - 1)
    return value if value is not None and value < size else None


def _adds_bos(metadata: Metadata) -> bool:
    said = metadata.flag(_TOKENIZER + "add_bos_token")
    if said is not None:
        return said
    if metadata.text(_TOKENIZER + "model") == "gpt2":
        return metadata.text(_TOKENIZER + "pre") in _PRE_WITH_BOS
    return metadata.text(_TOKENIZER + "model") in ("llama", "bert", "gemma4")
