"""What the vocabulary that llama.cpp has loaded is like, found by asking its tokenizer."""

from __future__ import annotations

from typing import Any

from openllm.engines.llamacpp_request import encode
from openllm.engines.llamacpp_socket import NativeSocket
from openllm.errors import EngineError

SENTENCEPIECE, BYTE_PAIRS = 1, 2
"""llama.cpp's numbers of the kinds of vocabulary that leave out nothing of a text."""

SEPARATOR = "\x01\x02\x03"
"""Stands in no token of any vocabulary."""

_SPACES = " " * 8
_NAMES = ("<|end|>", "</s>", "<mask>", "[MASK]")  # Those beside which some models drop spaces.
_EVERY_BYTE = (
    bytes(range(0x80)),
    *(bytes((0xC2, byte)) for byte in range(0x80, 0xC0)),
    *(bytes((byte, 0x80)) for byte in range(0xC3, 0xE0)),
    b"\xe0\xa0\x80",
    *(bytes((byte, 0x80, 0x80)) for byte in range(0xE1, 0xF0)),
    b"\xf0\x90\x80\x80",
    *(bytes((byte, 0x80, 0x80, 0x80)) for byte in range(0xF1, 0xF5)),
)
_PROBE = b"".join(_EVERY_BYTE).decode() + "e\u0301" + _SPACES.join(("", *_NAMES, "."))


async def adds_bos(socket: NativeSocket) -> bool:
    """Whether the tokenizer puts a token of its own before a text."""
    bare, full = [await _tokenize(socket, "a", add_special=special) for special in (False, True)]
    return bool(full[:1] != bare[:1])


async def line_break(socket: NativeSocket) -> int | None:
    """Return a token with a line break in it, if the tokenizer has one."""
    ids = (await _tokenize(socket, "\n"))[-1:]
    return ids[0] if "\n" in await _detokenize(socket, ids) else None


async def longest_token(socket: NativeSocket, kind: int, size: int) -> int:
    """Return the most bytes of a text that one token stands for; 0 where that has no bound.

    Args:
        socket: The way to llama.cpp.
        kind: Its number of the kind of vocabulary.
        size: Token ids of the vocabulary.
    """
    if kind not in (SENTENCEPIECE, BYTE_PAIRS) or not await _keeps_text(socket):
        return 0
    between = await _tokenize(socket, SEPARATOR)
    ids = [each for token in range(size) for each in (token, *between)]
    texts = (await _detokenize(socket, ids)).split(SEPARATOR)
    # Where spaces are written as U+2581, that is one as well, and has 3 bytes.
    blank = 3 if await _read_back(socket, "a\u2581b") != "a\u2581b" else 1
    return max(len(text.encode()) + (blank - 1) * text.count(" ") for text in texts)


async def _keeps_text(socket: NativeSocket) -> bool:
    """Whether a text comes back from its tokens whole; spaces may be added."""
    try:
        back = await _read_back(socket, _PROBE)
    except EngineError:  # A SentencePiece vocabulary that lacks the token of some byte.
        return False
    return back.count(" ") >= _PROBE.count(" ") and _without_spaces(back) == _without_spaces(_PROBE)


def _without_spaces(text: str) -> str:
    return text.replace(" ", "")


async def _read_back(socket: NativeSocket, text: str) -> str:
    return await _detokenize(socket, await _tokenize(socket, text, parse_special=True))


async def _tokenize(socket: NativeSocket, text: str, **options: Any) -> list[int]:
    reply = await socket.post("/tokenize", encode({"content": text, **options}))
    return list(reply["tokens"])


async def _detokenize(socket: NativeSocket, ids: list[int]) -> str:
    return str((await socket.post("/detokenize", encode({"tokens": ids})))["content"])
