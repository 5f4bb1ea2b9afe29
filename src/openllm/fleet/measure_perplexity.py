"""Perplexity of what a model generates: exp of minus the mean logprob of the chosen tokens.

Engines tell logprobs only if asked, so every generation is made to ask, and what its client did
not ask for is taken out of the chunks again.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

from msgspec.structs import replace

from openllm.errors import UnsupportedError
from openllm.fleet.measure_histogram import Histogram
from openllm.types import CompletionChunk, GenerateRequest, TokenLogprob

PERPLEXITY = (
    1.1, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 50.0, 100.0, 1000.0,
)  # fmt: skip
"""Bounds: 1 is a text that could be no other, the size of the vocabulary one of pure chance."""

# No float holds the perplexity of less probable texts; one token that cannot occur makes one such.
_MOST_NATS = 700.0

Generate = Callable[[GenerateRequest], AsyncGenerator[CompletionChunk, None]]


class PerplexityMeasure:
    """The totals of one model.

    Attributes:
        histogram: Perplexities of the sequences that came to an end.
        nats: Sum of minus the logprobs of their tokens, so that exp(nats / tokens) is the
            perplexity of all of them together.
        tokens: How many tokens that sum is of.
    """

    def __init__(self) -> None:
        self.histogram = Histogram(PERPLEXITY)
        self.nats = 0.0
        self.tokens = 0

    async def follow(
        self, generate: Generate, request: GenerateRequest
    ) -> AsyncGenerator[CompletionChunk, None]:
        """Yield what `generate` yields for `request`, and note the perplexity.

        A request whose logprobs the engine refuses is made without them, and left out.
        """
        if request.params.logprobs is not None:
            asking, shown = request, True
        else:
            asking, shown = replace(request, params=replace(request.params, logprobs=0)), False
        try:
            async with aclosing(self._noted(generate(asking), shown=shown)) as chunks:
                async for chunk in chunks:
                    yield chunk
            return
        except UnsupportedError as error:
            if shown or error.param != "logprobs":
                raise
        async with aclosing(generate(request)) as chunks:
            async for chunk in chunks:
                yield chunk

    def add(self, nats: float, tokens: int) -> None:
        """Count a sequence of `tokens` tokens whose logprobs sum to minus `nats`."""
        # Rounding can lift a sure token's logprob above 0. NaN and infinity compare as wanted.
        if tokens and (mean := max(nats, 0.0) / tokens) < _MOST_NATS:
            self.histogram.observe(math.exp(mean))
            self.nats += mean * tokens
            self.tokens += tokens

    async def _noted(
        self, made: AsyncGenerator[CompletionChunk, None], *, shown: bool
    ) -> AsyncGenerator[CompletionChunk, None]:
        sums: dict[int, tuple[float, int]] = {}
        async with aclosing(made) as chunks:
            async for chunk in chunks:
                nats, tokens = sums.get(chunk.index, (0.0, 0))
                if chunk.logprobs:
                    nats -= _sum(chunk.logprobs)
                    tokens += len(chunk.logprobs)
                    sums[chunk.index] = nats, tokens
                if chunk.finish_reason is not None:
                    self.add(nats, tokens)
                yield chunk if shown or chunk.logprobs is None else replace(chunk, logprobs=None)


def _sum(tokens: Sequence[TokenLogprob]) -> float:
    return sum(token.logprob for token in tokens)
