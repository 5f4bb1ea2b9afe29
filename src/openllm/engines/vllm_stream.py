"""vLLM's outputs as our chunks.

Text is made here from the tokens' bytes, not by vLLM's detokenizer, whose stop strings follow other
rules (of several the first in the list wins) and whose logprobs do not tell true bytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from openllm.engines.hf_tokens import TokenTable
from openllm.engines.sequence_output import MadeToken, SequenceOutput, token_logprob
from openllm.errors import EngineError
from openllm.types import CompletionChunk, SamplingParams, TokenLogprob, Usage

LEAST_LOGPROB = -9999.0
"""For tokens that were ruled out: minus infinity is no JSON."""

Chunks = AsyncGenerator[CompletionChunk, None]


class SequenceStream:
    """Outputs of one sequence in, chunks out.

    Attributes:
        ended: Its last chunk has been made.
    """

    __slots__ = ("_ends", "_index", "_limit", "_output", "_params", "_table", "ended")

    def __init__(self, params: SamplingParams, index: int, limit: int, table: TokenTable) -> None:
        """Begin with no token; `limit` is the most that will be made."""
        self._params = params
        self._index = index
        self._limit = limit
        self._table = table
        self._ends: set[int] = set()  # vLLM says which token ends the text when it comes.
        self._output: SequenceOutput | None = None
        self.ended = False

    def take(self, output: Any) -> list[CompletionChunk]:
        """Return the chunks that one `RequestOutput` of new tokens completes.

        Raises:
            EngineError: vLLM gave the sequence up.
        """
        completion = output.outputs[0]
        reason = completion.finish_reason
        if reason is not None and reason not in ("stop", "length"):
            raise EngineError(f"vLLM ended the request with {reason!r}; its log says why")
        token_ids = completion.token_ids
        if reason == "stop" and token_ids:
            self._ends.add(token_ids[-1])
        chunks = self._push(self._begun(output), token_ids, completion.logprobs)
        self.ended = bool(chunks) and chunks[-1].finish_reason is not None
        if reason is not None and not self.ended:
            raise EngineError(f"vLLM ended the request with {reason!r} before its last token")
        return chunks

    def _begun(self, output: Any) -> SequenceOutput:
        if self._output is None:
            usage = Usage(len(output.prompt_token_ids), 0, output.num_cached_tokens or 0)
            self._output = SequenceOutput(self._params, self._index, self._ends, self._limit, usage)
        return self._output

    def _push(
        self, output: SequenceOutput, token_ids: Sequence[int], logprobs: Sequence[Any] | None
    ) -> list[CompletionChunk]:
        chunks = []
        for at, token_id in enumerate(token_ids):
            token = (
                MadeToken(token_id, 0.0)
                if logprobs is None
                else self._token(token_id, logprobs[at])
            )
            chunk = output.push(token, self._table.bytes_of(token_id))
            if chunk is not None:
                chunks.append(chunk)
                if chunk.finish_reason is not None:
                    break
        return chunks

    def _token(self, token_id: int, logprobs: dict[int, Any]) -> MadeToken:
        """Return a token with its report; `logprobs` has those of the likeliest tokens, too."""
        report = self._report(token_id, logprobs[token_id].logprob)
        if not self._params.logprobs:
            return MadeToken(token_id, report.logprob, report)
        likeliest = sorted(
            ((each.logprob, other) for other, each in logprobs.items()),
            key=lambda pair: (-pair[0], pair[1] != token_id),
        )
        top = tuple(self._report(other, value) for value, other in likeliest)
        report = TokenLogprob(token_id, report.token, report.bytes, report.logprob, top)
        return MadeToken(token_id, report.logprob, report)

    def _report(self, token_id: int, logprob: float) -> TokenLogprob:
        data = self._table.bytes_of(token_id)
        return token_logprob(token_id, data, max(logprob, LEAST_LOGPROB))


async def merge(streams: Sequence[Chunks]) -> Chunks:
    """Yield the chunks of several sequences as they come; the first error ends all."""
    queue: asyncio.Queue[CompletionChunk | Exception] = asyncio.Queue()

    async def pump(stream: Chunks) -> None:
        try:
            async with aclosing(stream) as chunks:
                async for chunk in chunks:
                    queue.put_nowait(chunk)
        except Exception as error:
            queue.put_nowait(error)

    tasks = [asyncio.create_task(pump(stream)) for stream in streams]
    unfinished = len(tasks)
    try:
        while unfinished:
            item = await queue.get()
            if isinstance(item, Exception):
                raise item
            unfinished -= item.finish_reason is not None
            yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
