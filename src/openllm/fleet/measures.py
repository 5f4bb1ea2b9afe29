"""What a served model has done, as numbers that only grow. Knows no protocol and no format."""

from __future__ import annotations

import asyncio
from collections import Counter
from time import perf_counter
from types import TracebackType

from msgspec import Struct

from openllm.errors import InvalidRequestError, OverloadedError
from openllm.fleet.measure_histogram import Histogram
from openllm.fleet.measure_perplexity import PerplexityMeasure
from openllm.types import CompletionChunk

SECONDS = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0,
)  # fmt: skip
"""Bounds for waiting, for the first token and for whole requests."""

TOKEN_SECONDS = (
    0.001, 0.0025, 0.005, 0.01, 0.015, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5,
)  # fmt: skip
"""Bounds for one token among many: from a small model on a card to a large one on a CPU."""


class ModelMeasures:
    """The totals of one model.

    Attributes:
        queue_seconds: From a generation's arrival to its turn.
        first_token_seconds: From its arrival to its first token, the queue included.
        token_seconds: Of each sequence, the mean time between two tokens behind its first ones.
        prompt_tokens: Of generations that came to an end; those of a prompt count once.
        cached_tokens: Those of them that were not read again.
        generated_tokens: Of all generations, the ones that were cut short too.
        ended: Sequences by why they ended: a finish reason, "cancelled" (the client left or the
            time was over), "refused" (a wrong request, or a full queue) or "error".
        restarts: Times that a new process took a dead one's place.
        perplexity: None unless it is asked for.
    """

    def __init__(self, *, perplexity: bool = False) -> None:
        self.queue_seconds = Histogram(SECONDS)
        self.first_token_seconds = Histogram(SECONDS)
        self.token_seconds = Histogram(TOKEN_SECONDS)
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.generated_tokens = 0
        self.ended: Counter[str] = Counter()
        self.restarts = 0
        self.perplexity = PerplexityMeasure() if perplexity else None


class GenerationMeasure:
    """Follows one generation from its arrival; a context, whose exit says how it ended.

    The totals grow when sequences begin and end, so that chunks in between cost nothing but a sum
    of theirs.

    Attributes:
        tokens: Generated so far, counted by whoever sees the chunks.
        silent: Sequences of which no token has been marked.
    """

    __slots__ = (
        "_arrived",
        "_finished_tokens",
        "_firsts",
        "_measures",
        "_open",
        "_prompt_counted",
        "silent",
        "tokens",
    )

    def __init__(self, measures: ModelMeasures, sequences: int) -> None:
        self._measures = measures
        self._open = sequences
        self._finished_tokens = 0
        self._prompt_counted = False
        self._arrived = perf_counter()
        self._firsts: dict[int, tuple[float, int]] = {}
        self.silent = set(range(sequences))
        self.tokens = 0

    def __enter__(self) -> GenerationMeasure:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # An engine of the user's own may leave out the ids, or the usage.
        self._measures.generated_tokens += max(self.tokens, self._finished_tokens)
        if self._open > 0:
            self._measures.ended[_reason(kind)] += self._open

    def admit(self) -> None:
        """Note that its turn has come."""
        self._measures.queue_seconds.observe(perf_counter() - self._arrived)

    def mark(self, chunk: CompletionChunk) -> None:
        """Note a chunk of a silent sequence, or one that ends a sequence."""
        now = perf_counter()
        if chunk.index in self.silent and (chunk.token_ids or chunk.text):
            if not self._firsts:
                self._measures.first_token_seconds.observe(now - self._arrived)
            self.silent.discard(chunk.index)
            self._firsts[chunk.index] = now, max(1, len(chunk.token_ids))
        if chunk.finish_reason is not None:
            self._finish(chunk, now)

    def _finish(self, chunk: CompletionChunk, now: float) -> None:
        measures = self._measures
        self._open -= 1
        measures.ended[str(chunk.finish_reason)] += 1
        if chunk.usage is None:
            return
        tokens = chunk.usage.completion_tokens
        if not self._prompt_counted:
            self._prompt_counted = True
            measures.prompt_tokens += chunk.usage.prompt_tokens
            measures.cached_tokens += chunk.usage.cached_tokens
        self._finished_tokens += tokens
        begun, together = self._firsts.get(chunk.index, (now, tokens))
        if tokens > together:
            measures.token_seconds.observe((now - begun) / (tokens - together))


class ModelReport(Struct, frozen=True, kw_only=True):
    """A served model at this moment.

    Attributes:
        running: Places of the engine in use; a generation of n sequences takes n.
        waiting: Requests in the queue.
    """

    name: str
    state: str
    running: int
    waiting: int
    measures: ModelMeasures


def _reason(kind: type[BaseException] | None) -> str:
    """Return why a generation ended before all its sequences had."""
    if kind is None:
        return "error"  # Its stream was incomplete.
    if issubclass(kind, (GeneratorExit, asyncio.CancelledError)):
        return "cancelled"
    return "refused" if issubclass(kind, (InvalidRequestError, OverloadedError)) else "error"
