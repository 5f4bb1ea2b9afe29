"""Generations as one stream of chunks: several prompts merged, completeness checked, text gathered.

Choice j of prompt i has index i * n + j. Knows nothing of the wire.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from msgspec.structs import replace

from openllm.errors import EngineError
from openllm.fleet import ServedModel
from openllm.types import (
    CompletionChunk,
    FinishReason,
    GenerateRequest,
    SamplingParams,
    TokenLogprob,
    Usage,
)

# What the text, number and bytes of one token come to.
_LOGPROB_BYTES = 64


class Tally:
    """What has to be known about all choices together: whether each has ended, and the usage."""

    def __init__(self, prompts: int, n: int) -> None:
        self.choices = prompts * n
        self._n = n
        self._completion_tokens = 0
        self._prompts: dict[int, Usage] = {}
        self._open = set(range(self.choices))

    def finish(self, chunk: CompletionChunk) -> None:
        """Count a chunk that has a finish_reason."""
        self._open.discard(chunk.index)
        if chunk.usage is not None:
            self._completion_tokens += chunk.usage.completion_tokens
            self._prompts.setdefault(chunk.index // self._n, chunk.usage)

    def check(self) -> None:
        """Raise `EngineError` unless every choice has ended."""
        if self._open:
            raise EngineError(
                f"the stream ended before choice {min(self._open)} had a finish_reason"
            )

    def usage(self) -> Usage:
        """Return the sums; the n choices of a prompt share its tokens."""
        prompts = self._prompts.values()
        return Usage(
            prompt_tokens=sum(usage.prompt_tokens for usage in prompts),
            completion_tokens=self._completion_tokens,
            cached_tokens=sum(usage.cached_tokens for usage in prompts),
        )


class Choice:
    """One sequence, gathered."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self.logprobs: list[TokenLogprob] = []
        self.finish_reason: FinishReason | None = None

    @property
    def text(self) -> str:
        return "".join(self._texts)

    def add(self, chunk: CompletionChunk) -> None:
        self._texts.append(chunk.text)
        self.logprobs.extend(chunk.logprobs or ())
        self.finish_reason = chunk.finish_reason


def answer_size(choices: Sequence[Choice], params: SamplingParams) -> int:
    """Return about how many bytes an answer of these takes."""
    reported = sum(len(choice.logprobs) for choice in choices) * (1 + (params.logprobs or 0))
    return sum(len(choice.text) for choice in choices) + _LOGPROB_BYTES * reported


async def collect(chunks: AsyncGenerator[CompletionChunk, None], tally: Tally) -> list[Choice]:
    """Gather a whole stream.

    Raises:
        EngineError: It ended before every choice did.
    """
    choices = [Choice() for _ in range(tally.choices)]
    async with aclosing(chunks):
        async for chunk in chunks:
            choices[chunk.index].add(chunk)
            if chunk.finish_reason is not None:
                tally.finish(chunk)
    tally.check()
    return choices


async def generate_all(
    served: ServedModel, requests: Sequence[GenerateRequest], width: int
) -> AsyncGenerator[CompletionChunk, None]:
    """Yield the chunks of all requests as they come; at most `width` requests run at once."""
    ready: asyncio.Queue[CompletionChunk | None] = asyncio.Queue()
    waiting = iter(enumerate(requests))

    async def work() -> None:
        for number, request in waiting:
            first = number * request.params.n
            async with aclosing(served.generate(request)) as chunks:
                async for chunk in chunks:
                    ready.put_nowait(replace(chunk, index=first + chunk.index))

    tasks = [asyncio.create_task(work()) for _ in range(min(width, len(requests)))]
    everything = asyncio.gather(*tasks)
    everything.add_done_callback(lambda _: ready.put_nowait(None))
    try:
        while (chunk := await ready.get()) is not None:
            yield chunk
        await everything
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(everything, *tasks, return_exceptions=True)
