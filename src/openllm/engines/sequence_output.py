"""The chunks that one sequence's tokens make, for engines that choose token by token.

An end token is neither reported nor counted; a stop string is cut, with the tokens behind it.
"""

from __future__ import annotations

from collections.abc import Container
from typing import NamedTuple

from openllm.engines.textstream import TextStream
from openllm.types import CompletionChunk, FinishReason, SamplingParams, TokenLogprob, Usage


class MadeToken(NamedTuple):
    """A token that was chosen: its id, its logprob, and what is reported of it if anything is."""

    token_id: int
    logprob: float
    report: TokenLogprob | None = None


def token_logprob(
    token_id: int, data: bytes, logprob: float, top: tuple[TokenLogprob, ...] = ()
) -> TokenLogprob:
    """Return what is reported of a token whose text is `data`."""
    return TokenLogprob(token_id, data.decode("utf-8", "replace"), tuple(data), logprob, top)


class SequenceOutput:
    """Tokens of sequence `index` in, chunks out.

    Attributes:
        made: Tokens made so far, the one that ended the text not counted.
    """

    __slots__ = (
        "_cumulative",
        "_ends",
        "_index",
        "_limit",
        "_reports",
        "_sent",
        "_stream",
        "_usage",
        "made",
    )

    def __init__(
        self,
        params: SamplingParams,
        index: int,
        ends: Container[int],
        limit: int,
        usage: Usage,
    ) -> None:
        """Begin with no token.

        Args:
            params: Gives the stop strings and whether logprobs are reported.
            index: Which of the request's sequences this is.
            ends: Token ids that end the text.
            limit: Most tokens made.
            usage: The prompt's tokens, and those of them that were cached.
        """
        self._index = index
        self._ends = ends
        self._limit = limit
        self._usage = usage
        self._stream: TextStream[MadeToken] = TextStream(params.stop)
        self._reports = params.logprobs is not None
        self._cumulative = 0.0
        self._sent = 0
        self.made = 0

    def push(self, token: MadeToken, data: bytes) -> CompletionChunk | None:
        """Add a token whose text is `data`; return the chunk it completes, None while it is held.

        The chunk with a finish_reason is the last; nothing may be pushed after it.
        """
        if token.token_id in self._ends:
            return self._finish("stop", "", ())
        self.made += 1
        text, tokens = self._stream.push(token, data)
        if self._stream.matched is not None:
            return self._chunk(text, tokens, "stop")
        if self.made >= self._limit:
            return self._finish("length", text, tokens)
        return self._chunk(text, tokens, None) if text else None

    def _finish(
        self, reason: FinishReason, text: str, tokens: tuple[MadeToken, ...]
    ) -> CompletionChunk:
        tail, last = self._stream.finish()
        if self._stream.matched is not None:
            reason = "stop"
        return self._chunk(text + tail, tokens + last, reason)

    def _chunk(
        self, text: str, tokens: tuple[MadeToken, ...], reason: FinishReason | None
    ) -> CompletionChunk:
        self._sent += len(tokens)
        ids = []
        for token in tokens:
            ids.append(token.token_id)
            self._cumulative += token.logprob
        if reason is None and not self._reports:
            return CompletionChunk(self._index, text, tuple(ids), self._cumulative)
        reports = tuple(token.report for token in tokens if token.report is not None)
        usage = None
        if reason is not None:
            usage = Usage(self._usage.prompt_tokens, self._sent, self._usage.cached_tokens)
        return CompletionChunk(
            self._index,
            text,
            tuple(ids),
            self._cumulative,
            reports if self._reports else None,
            reason,
            usage,
        )
