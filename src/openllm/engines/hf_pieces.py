"""What one token adds to a text, as bytes, by the rules of its tokenizer's decoder.

    ByteLevel                        "Ġa"     -> b" a"       (GPT-2, Llama 3, Qwen)
    Replace, ByteFallback, Fuse      "▁a"     -> b" a", "<0xE6>" -> b"\\xe6"   (Llama 2, Gemma)
    Metaspace                        "▁a"     -> b" a"       (T5)
    WordPiece                        "##a"    -> b"a", "a" -> b" a"            (BERT)
    none                             "a"      -> b" a"       (tokens are words)

The rules say how a token reads inside of a text; `first=True`, how it reads where none is before
it. Strings that stand for bytes which are no character must not pass through `str`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

METASPACE = "\u2581"

_Step = Callable[[str, bool], str]

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")

# What the WordPiece decoder of `tokenizers` makes of English, within each token.
_CLEANED = (
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" do not", " don't"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
)


class Pieces(Protocol):
    """The rules of one decoder.

    Attributes:
        lead: The character that is dropped at the beginning of a text, as bytes.
        lead_count: How many of it are dropped at most, over all tokens.
    """

    lead: bytes
    lead_count: int

    def of(self, token: str, *, first: bool = False) -> bytes:
        """Return what `token` adds to a text."""


class RulePieces:
    """Rules that were compiled: steps over the token's string, then its bytes."""

    def __init__(
        self,
        steps: Sequence[_Step],
        encode: Callable[[str], bytes] = str.encode,
        lead: str = " ",
        lead_count: int = 0,
    ) -> None:
        self._steps = steps
        self._encode = encode
        self.lead = lead.encode()
        self.lead_count = lead_count

    def of(self, token: str, *, first: bool = False) -> bytes:
        for step in self._steps:
            token = step(token, first)
        return self._encode(token)


class AnchorPieces:
    """For decoders without known rules: what a token adds to the text of another.

    Bytes that are no character on their own are lost, as the decoder gives text only.
    """

    lead = b" "
    lead_count = 0

    def __init__(self, to_text: Callable[[list[str]], str], anchor: str) -> None:
        self._to_text = to_text
        self._anchor = anchor
        self._before = to_text([anchor])

    def of(self, token: str, *, first: bool = False) -> bytes:
        if first:
            return self._to_text([token]).encode("utf-8", "replace")
        text = self._to_text([self._anchor, token])
        return text.removeprefix(self._before).encode("utf-8", "replace")


def compile_decoder(decoder: Mapping[str, Any] | None) -> Pieces | None:
    """Compile a decoder of `tokenizers`, given as in `tokenizer.json`; None if it is unknown."""
    if decoder is None:
        return RulePieces([_word])
    steps: list[_Step] = []
    encode: Callable[[str], bytes] = str.encode
    lead, lead_count, fused = " ", 0, False
    for part in _flat(decoder):
        kind = part["type"]
        if kind == "Strip" and fused and not part["stop"]:
            lead, lead_count = part["content"], part["start"]
        elif fused and kind != "Fuse":
            return None  # It sees the whole text, not a token.
        elif kind in ("Fuse", "ByteLevel"):
            fused = True
            encode = encode_byte_level if kind == "ByteLevel" else encode
        elif kind == "ByteFallback":
            encode = encode_byte_fallback
        elif (step := _step(kind, part)) is not None:
            steps.append(step)
        else:
            return None
    return RulePieces(steps, encode, lead, lead_count)


def sentencepiece_pieces() -> Pieces:
    """Return the rules of tokenizers that call the library `sentencepiece` themselves."""
    replace = _step("Replace", {"pattern": {"String": METASPACE}, "content": " "})
    return RulePieces([replace] if replace else [], encode_byte_fallback, lead_count=2**31)


def encode_byte_fallback(token: str) -> bytes:
    """Return the byte that "<0x41>" stands for, or the text itself."""
    found = _BYTE.fullmatch(token) if token.startswith("<0x") else None
    return bytes([int(found.group(1), 16)]) if found else token.encode()


def encode_byte_level(token: str) -> bytes:
    """Return the bytes that a token's characters stand for; of other characters, the text's own."""
    try:
        return token.translate(_BYTE_LEVEL).encode("latin-1")
    except UnicodeEncodeError:
        return token.encode()


def encode_latin_1(token: str) -> bytes:
    """Return the bytes of a token whose characters are numbered as bytes are (ByT5)."""
    try:
        return token.encode("latin-1")
    except UnicodeEncodeError:
        return token.encode()


def byte_level_alphabet() -> Iterator[tuple[str, int]]:
    """Yield the character that stands for each byte in GPT-2's vocabulary and its descendants.

    A byte that is a visible character in Latin-1 is written as it; the others, in order, as the
    characters from U+0100 on.
    """
    hidden = 256
    for byte in range(256):
        visible = 33 <= byte <= 126 or 161 <= byte <= 172 or byte >= 174
        yield chr(byte if visible else hidden), byte
        hidden += not visible


# Characters below U+0100 that stand for no byte become one that Latin-1 does not have.
_BYTE_LEVEL = dict.fromkeys(range(256), "\uffff") | {
    ord(char): chr(byte) for char, byte in byte_level_alphabet()
}


def _flat(decoder: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    if decoder["type"] != "Sequence":
        yield decoder
        return
    parts: Iterable[Mapping[str, Any]] = decoder["decoders"]
    for part in parts:
        yield from _flat(part)


def _step(kind: str, part: Mapping[str, Any]) -> _Step | None:
    """Return what a decoder does to each token; None for one that is not known."""
    if kind == "Replace" and "String" in part["pattern"]:
        old, new = part["pattern"]["String"], part["content"]
        return lambda token, first: token.replace(old, new)
    if kind == "Strip":
        char, start, stop = part["content"], part["start"], part["stop"]
        return lambda token, first: _stripped(token, char, start, stop)
    if kind == "Metaspace":
        space = part["replacement"]
        begin = " " if part.get("prepend_scheme") == "never" else ""
        return lambda token, first: token.replace(space, begin if first else " ")
    if kind == "WordPiece":
        prefix, cleanup = part["prefix"], part["cleanup"]
        return lambda token, first: _wordpiece(token, first, prefix, cleanup)
    if kind == "BPEDecoder":  # The last word of a text keeps its space: what follows is unknown.
        suffix = part["suffix"]
        return lambda token, first: token.replace(suffix, " ")
    return None


def _word(token: str, first: bool) -> str:
    return token if first else f" {token}"


def _wordpiece(token: str, first: bool, prefix: str, cleanup: bool) -> str:
    if not first:
        token = token.removeprefix(prefix) if token.startswith(prefix) else f" {token}"
    for old, new in _CLEANED if cleanup else ():
        token = token.replace(old, new)
    return token


def _stripped(token: str, char: str, start: int, stop: int) -> str:
    left = min(start, len(token) - len(token.lstrip(char)))
    token = token[left:]
    right = min(stop, len(token) - len(token.rstrip(char)))
    return token[: len(token) - right]
