"""The tokens of a transformers tokenizer: text to ids, and what each id adds to a text, as bytes.

With the bytes, `textstream` makes the same text of a stream as the tokenizer's own decoder makes
of the whole, special tokens skipped. Two things differ, both on purpose:

- A decoder drops the space that SentencePiece puts before a text. Text that follows a prompt keeps
  it, as it divides the two; only where nothing is before it (`strip_first`) it is dropped.
- Bytes that are no UTF-8 become one U+FFFD for each maximal invalid part, as `textstream` says;
  decoders with byte tokens write one for every byte of the run around it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from openllm.engines.hf_encode import Encoder, FastEncoder, SlowEncoder, affixes
from openllm.engines.hf_longest import longest_token
from openllm.engines.hf_pieces import (
    METASPACE,
    AnchorPieces,
    Pieces,
    RulePieces,
    compile_decoder,
    encode_byte_level,
    encode_latin_1,
    sentencepiece_pieces,
)
from openllm.engines.request_checks import no_unicode
from openllm.errors import ConfigurationError
from openllm.types import Prompt

MAX_BYTE_VOCABULARY = 1024
"""Most tokens of a vocabulary whose characters are bytes: 256 of them, the rest special."""

_Token = str | bytes | None


class TokenTable:
    """All tokens of one tokenizer; `len` is one more than the largest id.

    Safe to use from several threads. What is set in the tokenizer later changes nothing here.

    Attributes:
        longest: See `openllm.types.Capabilities.longest_token`.
    """

    def __init__(self, tokenizer: Any, *, strip_first: bool = False) -> None:
        """Read the vocabulary.

        Args:
            tokenizer: A tokenizer of transformers, fast or written in Python.
            strip_first: Texts stand alone, as those of an encoder-decoder do: the space of a first
                token is dropped, and prompts end as the tokenizer ends a text.
        """
        self._strip_first = strip_first
        self._special = frozenset(_special_ids(tokenizer))
        fast = bool(tokenizer.is_fast)
        self._tokens = _fast_tokens(tokenizer) if fast else _slow_tokens(tokenizer)
        self._pieces = (_fast_pieces if fast else _slow_pieces)(tokenizer, self._tokens)
        self._bytes = [self._read(each, token) for each, token in enumerate(self._tokens)]
        self._encoder: Encoder = (
            FastEncoder(tokenizer.backend_tokenizer, self._special)
            if fast
            else SlowEncoder(tokenizer, self._special)
        )
        self._before, self._behind = affixes(tokenizer)
        self.longest = longest_token(tokenizer)

    def __len__(self) -> int:
        return len(self._bytes)

    @property
    def special_ids(self) -> frozenset[int]:
        """The tokens that are skipped in text."""
        return self._special

    def bytes_of(self, token_id: int) -> bytes:
        """Return what a token adds within a text; nothing for special tokens and unknown ids."""
        try:
            return self._bytes[token_id]
        except IndexError:  # Models have ids for padding that no tokenizer knows.
            return b""

    def reader(self) -> Callable[[int], bytes]:
        """Return what gives the bytes of the tokens of one text, called for each in order."""
        return _Beginning(self).bytes_of if self._strip_first else self.bytes_of

    def token(self, token_id: int) -> str:
        """Return the text of one token, with U+FFFD for bytes that are no character."""
        return self.bytes_of(token_id).decode("utf-8", "replace")

    def encode(self, text: str, *, special: bool) -> list[int]:
        """Encode text, adding no token; `special` reads control tokens in it, else they stay text.

        Raises:
            InvalidRequestError: The text is no Unicode.
        """
        try:
            text.encode()
        except UnicodeEncodeError:
            raise no_unicode() from None
        return self._encoder.encode(text, special=special)

    def decode(self, token_ids: Iterable[int]) -> str:
        """Return the text of tokens: their bytes, joined."""
        read = self.reader()
        return b"".join([read(each) for each in token_ids]).decode("utf-8", "replace")

    def detokenize(self, token_ids: Iterable[int]) -> str:
        """Return the text of tokens with that of special tokens in it."""
        return b"".join([self._shown(each) for each in token_ids]).decode("utf-8", "replace")

    def _shown(self, token_id: int) -> bytes:
        if token_id not in self._special or token_id >= len(self._tokens):
            return self.bytes_of(token_id)
        token = self._tokens[token_id]
        return token.encode() if isinstance(token, str) else token or b""

    def prompt_ids(self, prompt: Prompt, *, closed: bool | None = None) -> list[int]:
        """Encode a prompt, with the tokens that the tokenizer by itself puts around a text.

        Those before it (BOS) are added if the prompt begins with text, and not twice if the text
        has them already; those behind it (EOS) only if the prompt is `closed` and ends with text.
        An empty prompt is empty.

        Args:
            prompt: Text in which control tokens count, or pieces of such text and ids.
            closed: No text is to continue the prompt: an encoder reads it, or it is embedded.
                None means so where `strip_first` was set.

        Raises:
            InvalidRequestError: The text is no Unicode.
        """
        pieces = list(_joined((prompt,) if isinstance(prompt, str) else prompt))
        ids: list[int] = []
        for piece in pieces:
            ids += self.encode(piece, special=True) if isinstance(piece, str) else [piece]
        if pieces and isinstance(pieces[0], str) and ids[: len(self._before)] != self._before:
            ids = self._before + ids
        closed = self._strip_first if closed is None else closed
        if closed and self._behind and pieces and isinstance(pieces[-1], str):
            ids += self._behind if ids[-len(self._behind) :] != self._behind else []
        return ids

    def _read(self, token_id: int, token: _Token, *, first: bool = False) -> bytes:
        if token is None or token_id in self._special:
            return b""
        return token if isinstance(token, bytes) else self._pieces.of(token, first=first)


def check_vocabulary(table: TokenTable, size: int, folder: str) -> None:
    """Refuse a tokenizer from another folder that has tokens which the model does not know.

    Args:
        table: Its tokens.
        size: How many the model knows.
        folder: Where the tokenizer is.

    Raises:
        ConfigurationError: It has more.
    """
    if len(table) > size:
        raise ConfigurationError(
            f"the tokenizer in {folder} has {len(table)} tokens and the model knows {size}; give"
            " the tokenizer that the model was made with",
            param="tokenizer",
        )


class _Beginning:
    """Gives the bytes of a text's tokens, the first of them without the space before a text."""

    __slots__ = ("_first", "_left", "_table")

    def __init__(self, table: TokenTable) -> None:
        self._table = table
        self._first = True
        self._left = table._pieces.lead_count

    def bytes_of(self, token_id: int) -> bytes:
        table = self._table
        data = table.bytes_of(token_id)
        if not data or not (self._first or self._left):
            return data
        if self._first:
            data = table._read(token_id, table._tokens[token_id], first=True)
            self._first = False
        while self._left and data.startswith(table._pieces.lead):
            data = data.removeprefix(table._pieces.lead)
            self._left -= 1
        self._left = 0 if data else self._left
        return data


def _joined(pieces: Iterable[str | int]) -> Iterator[str | int]:
    """Yield the pieces, neighbouring texts as one and empty ones not at all."""
    text = ""
    for piece in pieces:
        if isinstance(piece, str):
            text += piece
            continue
        if text:
            yield text
            text = ""
        yield piece
    if text:
        yield text


def _special_ids(tokenizer: Any) -> Iterator[int]:
    """Yield the ids that the tokenizer's decoder skips."""
    for token_id, token in tokenizer.added_tokens_decoder.items():
        if token.special:
            yield token_id
    if not tokenizer.is_fast:
        yield from (each for each in tokenizer.all_special_ids if each is not None)


def _fast_tokens(tokenizer: Any) -> list[_Token]:
    backend = tokenizer.backend_tokenizer
    vocabulary: dict[str, int] = backend.get_vocab(with_added_tokens=True)
    added = backend.get_added_tokens_decoder()
    tokens: list[_Token] = [None] * (max((*vocabulary.values(), *added), default=-1) + 1)
    for token, token_id in vocabulary.items():
        tokens[token_id] = token
    for token_id, token in added.items():
        tokens[token_id] = token.content
    for token_id, known in enumerate(tokens):  # Of ids with the same text, one is still missing.
        if known is None:
            tokens[token_id] = backend.id_to_token(token_id)
    return tokens


def _fast_pieces(tokenizer: Any, tokens: Sequence[_Token]) -> Pieces:
    decoder = tokenizer.backend_tokenizer.decoder
    rules = compile_decoder(json.loads(decoder.__getstate__()) if decoder is not None else None)
    if rules is not None:
        return rules
    return AnchorPieces(decoder.decode, _anchor(tokens))


def _slow_tokens(tokenizer: Any) -> list[_Token]:
    size = max((len(tokenizer) - 1, *tokenizer.added_tokens_decoder), default=-1) + 1
    return [_slow_token(tokenizer, token_id) for token_id in range(size)]


def _slow_token(tokenizer: Any, token_id: int) -> _Token:
    try:
        token = tokenizer.convert_ids_to_tokens(token_id)
    except (IndexError, KeyError, ValueError, TypeError):  # An id that is not used.
        return None
    return token if isinstance(token, (str, bytes)) else None


def _slow_pieces(tokenizer: Any, tokens: Sequence[_Token]) -> Pieces:
    """Find the rules by what the tokens look like; their decoder is code."""
    if getattr(tokenizer, "byte_decoder", None):
        return RulePieces([], encode_byte_level)
    texts = [token for token in tokens if isinstance(token, str)]
    if any(token.startswith(METASPACE) for token in texts):
        return sentencepiece_pieces()
    if len(texts) <= MAX_BYTE_VOCABULARY and {chr(byte) for byte in range(256)} <= set(texts):
        return RulePieces([], encode_latin_1)
    return AnchorPieces(tokenizer.convert_tokens_to_string, _anchor(tokens))


def _anchor(tokens: Sequence[_Token]) -> str:
    """Return a token that reads as a letter, behind which others are decoded."""
    texts = [token for token in tokens if isinstance(token, str)]
    plain = (token for token in texts if token.isascii() and token.isalpha())
    return next(plain, texts[0] if texts else "")
