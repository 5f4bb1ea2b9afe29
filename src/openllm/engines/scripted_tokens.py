"""The scripted engine's tokenizer and embeddings: no weights, exact, the same on every machine.

Ids 0 to 255 are the bytes, then come the control tokens, then the words and tokens of the script
in the order in which the script first uses them. A word that the script does not know is its
bytes, so every text can be encoded, and decoding gives the text back.
"""

from __future__ import annotations

import math
import re
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from zlib import crc32

from openllm.engines.request_checks import check_token
from openllm.errors import InvalidRequestError
from openllm.types import Prompt

IM_START = "<|im_start|>"
IM_END = "<|im_end|>"
END_OF_TEXT = "<|endoftext|>"
CONTROL_TOKENS = (IM_START, IM_END, END_OF_TEXT)
IM_START_ID, IM_END_ID, END_OF_TEXT_ID = range(256, 259)
END_IDS = frozenset((IM_END_ID, END_OF_TEXT_ID))

EMBEDDING_SIZE = 64

_WORD = re.compile(r" ?\w+| ?[^\w\s]+|\s+")
_CONTROL = re.compile("(" + "|".join(map(re.escape, CONTROL_TOKENS)) + ")")


def split_words(text: str) -> list[str]:
    """Cut text into words, each with the space before it; joined they are the text again."""
    return _WORD.findall(text)


class Vocabulary:
    """Token ids of one script; bounded, as only loading the script adds to it."""

    def __init__(self) -> None:
        self._bytes = [bytes([value]) for value in range(256)]
        self._ids = {data: token_id for token_id, data in enumerate(self._bytes)}
        self._bytes += [token.encode() for token in CONTROL_TOKENS]  # Never matched as words.

    def __len__(self) -> int:
        return len(self._bytes)

    @property
    def longest(self) -> int:
        """The most bytes that one token stands for."""
        return max(map(len, self._bytes))

    def add(self, data: bytes) -> int:
        """Return the id of the token with these bytes, new or known."""
        token_id = self._ids.get(data)
        if token_id is None:
            token_id = self._ids[data] = len(self._bytes)
            self._bytes.append(data)
        return token_id

    def data(self, token_id: int) -> bytes:
        return self._bytes[token_id]

    def encode(self, text: str, *, special: bool) -> list[int]:
        """Encode text; with `special`, control tokens in it become control tokens."""
        if not special:
            return list(self._words(text))
        pieces = _CONTROL.split(text)  # Text and control tokens by turns.
        ids = list(self._words(pieces[0]))
        for control, plain in zip(pieces[1::2], pieces[2::2], strict=True):
            ids.append(256 + CONTROL_TOKENS.index(control))
            ids.extend(self._words(plain))
        return ids

    def encode_prompt(self, prompt: Prompt) -> tuple[int, ...]:
        """Encode a prompt of the engine door.

        Raises:
            InvalidRequestError: It has no tokens, or an id that is not in the vocabulary.
        """
        ids: list[int] = []
        for piece in (prompt,) if isinstance(prompt, str) else prompt:
            if isinstance(piece, str):
                ids += self.encode(piece, special=True)
            else:
                ids.append(check_token(piece, len(self), "prompt"))
        if not ids:
            raise InvalidRequestError(
                "the prompt is empty; give at least one token", param="prompt"
            )
        return tuple(ids)

    def decode(self, token_ids: Iterable[int]) -> str:
        """Decode ids; bytes that are no UTF-8 become U+FFFD."""
        return b"".join(map(self._bytes.__getitem__, token_ids)).decode("utf-8", "replace")

    def _words(self, text: str) -> Iterator[int]:
        for word in split_words(text):
            data = word.encode("utf-8", "replace")
            token_id = self._ids.get(data)
            if token_id is None:
                yield from data
            else:
                yield token_id


class PromptCache:
    """Which prompts were read lately, so that usage can tell how much of a prompt was reused.

    Only a whole earlier prompt that this one continues counts, as in a conversation's next turn.
    """

    def __init__(self, size: int = 64) -> None:
        self._prompts: OrderedDict[tuple[int, ...], None] = OrderedDict()
        self._size = size

    def read(self, prompt: tuple[int, ...]) -> int:
        """Remember a prompt; return how many of its tokens are reused, at most all but one."""
        reused = max((len(old) for old in self._prompts if prompt[: len(old)] == old), default=0)
        self._prompts[prompt] = None
        self._prompts.move_to_end(prompt)
        if len(self._prompts) > self._size:
            self._prompts.popitem(last=False)
        return min(reused, len(prompt) - 1)


def embed_text(text: str) -> bytes:
    """Embed text as its bag of words, hashed: texts that share words are close.

    Returns:
        `EMBEDDING_SIZE` float32 of unit length, native byte order; case does not count.
    """
    values = [0.0] * EMBEDDING_SIZE
    for word in re.findall(r"\w+", text.lower()) or [text]:
        code = crc32(word.encode("utf-8", "replace"))
        values[code % EMBEDDING_SIZE] += 1.0 if code & 1 << 16 else -1.0
    if not any(values):  # The words cancelled each other out.
        values[len(text) % EMBEDDING_SIZE] = 1.0
    length = math.sqrt(sum(value * value for value in values))
    return array("f", [value / length for value in values]).tobytes()
