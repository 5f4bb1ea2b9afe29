"""What is counted of generations, and when."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

import pytest
from msgspec.structs import replace

from openllm.errors import EngineError, InvalidRequestError, OverloadedError, UnsupportedError
from openllm.fleet.measure_histogram import Histogram
from openllm.fleet.measure_perplexity import PERPLEXITY, PerplexityMeasure
from openllm.fleet.measures import SECONDS, TOKEN_SECONDS, GenerationMeasure, ModelMeasures
from openllm.types import (
    CompletionChunk,
    FinishReason,
    GenerateRequest,
    SamplingParams,
    TokenLogprob,
    Usage,
)

pytestmark = pytest.mark.anyio


def request(**params: object) -> GenerateRequest:
    return GenerateRequest(request_id="r", params=SamplingParams(**params), prompt="hi")  # type: ignore[arg-type]


def last(
    tokens: int, index: int = 0, reason: FinishReason = "stop", prompt: int = 7
) -> CompletionChunk:
    return CompletionChunk(index, "", (), 0.0, None, reason, Usage(prompt, tokens, 3))


def test_a_value_belongs_to_the_least_bound_that_it_does_not_exceed() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.0, 1.0, 1.5, 2.0, 2.1, 1e9):
        histogram.observe(value)
    assert histogram.counts == [2, 2, 2]
    assert histogram.sum == pytest.approx(1e9 + 6.6)


@pytest.mark.parametrize("bounds", [SECONDS, TOKEN_SECONDS, PERPLEXITY])
def test_bounds_ascend(bounds: tuple[float, ...]) -> None:
    assert all(low < high for low, high in itertools.pairwise(bounds))
    assert bounds[0] > 0


def test_a_whole_generation(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter((10.0, 11.0, 13.0, 17.0))
    monkeypatch.setattr("openllm.fleet.measures.perf_counter", lambda: next(now))
    measures = ModelMeasures()
    with GenerationMeasure(measures, 1) as measure:
        measure.admit()
        measure.mark(CompletionChunk(0, "a", (1,)))
        measure.tokens += 5
        measure.mark(last(5, reason="length"))
    assert measures.queue_seconds.sum == 1.0
    assert measures.first_token_seconds.sum == 3.0
    assert measures.token_seconds.sum == 1.0
    assert (measures.prompt_tokens, measures.cached_tokens) == (7, 3)
    assert measures.generated_tokens == 5
    assert measures.ended == {"length": 1}


def test_an_answer_of_one_chunk_has_no_time_between_tokens() -> None:
    measures = ModelMeasures()
    with GenerationMeasure(measures, 1) as measure:
        measure.admit()
        measure.mark(replace(last(3), token_ids=(1, 2, 3)))
    assert sum(measures.first_token_seconds.counts) == 1
    assert sum(measures.token_seconds.counts) == 0
    assert measures.generated_tokens == 3


def test_an_answer_without_a_token_has_no_first_one() -> None:
    measures = ModelMeasures()
    with GenerationMeasure(measures, 1) as measure:
        measure.mark(CompletionChunk(0, ""))
        measure.mark(last(0))
    assert sum(measures.first_token_seconds.counts) == 0
    assert sum(measures.token_seconds.counts) == 0


def test_each_sequence_is_timed_from_its_own_first_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter((0.0, 1.0, 5.0, 7.0, 9.0))
    monkeypatch.setattr("openllm.fleet.measures.perf_counter", lambda: next(now))
    measures = ModelMeasures()
    with GenerationMeasure(measures, 2) as measure:
        measure.mark(CompletionChunk(0, "a", (1,)))
        assert measure.silent == {1}
        measure.mark(CompletionChunk(1, "bcd", (2, 3, 4)))
        assert measure.silent == set()
        measure.mark(last(4, 0))  # Three tokens in 6 s.
        measure.mark(last(5, 1))  # Two tokens in 4 s.
    assert measures.first_token_seconds.sum == 1.0
    assert sum(measures.token_seconds.counts) == 2
    assert measures.token_seconds.sum == 4.0


def test_the_prompt_of_several_sequences_counts_once() -> None:
    measures = ModelMeasures()
    with GenerationMeasure(measures, 3) as measure:
        for index, tokens in enumerate((0, 4, 2)):
            measure.mark(last(tokens, index))
    assert (measures.prompt_tokens, measures.generated_tokens) == (7, 6)
    assert measures.ended == {"stop": 3}


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (GeneratorExit(), "cancelled"),
        (asyncio.CancelledError(), "cancelled"),
        (InvalidRequestError("no"), "refused"),
        (OverloadedError("full"), "refused"),
        (EngineError("gone"), "error"),
    ],
)
def test_what_did_not_end_well_says_why(error: BaseException, reason: str) -> None:
    measures = ModelMeasures()
    with pytest.raises(type(error)), GenerationMeasure(measures, 2) as measure:  # noqa: PT012
        measure.tokens = 9
        measure.mark(last(4))
        raise error
    assert measures.ended == {"stop": 1, reason: 1}
    assert measures.generated_tokens == 9


def test_a_stream_that_just_ends_is_an_error() -> None:
    measures = ModelMeasures()
    with GenerationMeasure(measures, 1):
        pass
    assert measures.ended == {"error": 1}


Produce = Callable[[GenerateRequest], list[CompletionChunk]]


class Engine:
    """Yields what `produce` makes of a request; remembers the requests."""

    def __init__(self, produce: Produce) -> None:
        self.produce = produce
        self.asked: list[int | None] = []
        self.open = 0

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[CompletionChunk, None]:
        self.asked.append(request.params.logprobs)
        self.open += 1
        try:
            for chunk in self.produce(request):
                yield chunk
                await asyncio.sleep(0)
        finally:
            self.open -= 1


def token(logprob: float) -> TokenLogprob:
    return TokenLogprob(1, "a", (97,), logprob)


def with_logprobs(*each: float, index: int = 0) -> Produce:
    """Two chunks of the logprobs, if the request asks for them."""

    def produce(request: GenerateRequest) -> list[CompletionChunk]:
        asked = request.params.logprobs is not None
        reports = tuple(map(token, each)) if asked else None
        end = last(len(each), index)
        return [
            CompletionChunk(index, "a", (1,), logprobs=reports[:1] if reports else None),
            replace(end, logprobs=reports[1:] if reports else None),
        ]

    return produce


async def follow(
    measure: PerplexityMeasure, engine: Engine, request: GenerateRequest
) -> list[CompletionChunk]:
    async with aclosing(measure.follow(engine.generate, request)) as chunks:
        return [chunk async for chunk in chunks]


@pytest.mark.spec("S0-28")
async def test_perplexity_is_exp_of_minus_the_mean_logprob() -> None:
    measure, engine = PerplexityMeasure(), Engine(with_logprobs(-1.0, -2.0, -6.0))
    chunks = await follow(measure, engine, request())
    assert engine.asked == [0]
    assert all(chunk.logprobs is None for chunk in chunks)
    assert [chunk.text for chunk in chunks] == ["a", ""]
    assert measure.histogram.sum == pytest.approx(math.exp(3.0))
    assert (measure.nats, measure.tokens) == (9.0, 3)
    # Of two texts together it is not the mean of the two.
    await follow(measure, Engine(with_logprobs(0.0)), request())
    assert math.exp(measure.nats / measure.tokens) == pytest.approx(math.exp(9 / 4))


async def test_who_asked_for_logprobs_gets_them() -> None:
    measure, engine = PerplexityMeasure(), Engine(with_logprobs(-1.0, -1.0))
    chunks = await follow(measure, engine, request(logprobs=5))
    assert engine.asked == [5]
    assert [len(chunk.logprobs or ()) for chunk in chunks] == [1, 1]
    assert measure.tokens == 2


async def test_each_sequence_has_its_own_perplexity() -> None:
    measure = PerplexityMeasure()

    def produce(request: GenerateRequest) -> list[CompletionChunk]:
        one, two = with_logprobs(-1.0, -1.0)(request), with_logprobs(-3.0, -3.0, index=1)(request)
        return [one[0], two[0], one[1], two[1]]

    await follow(measure, Engine(produce), request(n=2))
    assert sum(measure.histogram.counts) == 2
    assert measure.histogram.sum == pytest.approx(math.e + math.exp(3))


@pytest.mark.parametrize("logprobs", [(), (float("-inf"), -1.0), (float("nan"),), (-1e5,)], ids=str)
async def test_what_has_no_finite_perplexity_is_left_out(logprobs: tuple[float, ...]) -> None:
    measure = PerplexityMeasure()
    await follow(measure, Engine(with_logprobs(*logprobs)), request())
    assert (measure.nats, measure.tokens, measure.histogram.sum) == (0.0, 0, 0.0)


async def test_rounding_makes_no_total_fall() -> None:
    measure = PerplexityMeasure()
    await follow(measure, Engine(with_logprobs(1e-7)), request())
    assert (measure.nats, measure.tokens, measure.histogram.sum) == (0.0, 1, 1.0)


async def test_an_engine_without_logprobs_answers_without_them() -> None:
    def produce(request: GenerateRequest) -> list[CompletionChunk]:
        if request.params.logprobs is not None:
            raise UnsupportedError("no logprobs here", param="logprobs")
        return [CompletionChunk(0, "a", (1,)), last(1)]

    measure, engine = PerplexityMeasure(), Engine(produce)
    chunks = await follow(measure, engine, request())
    assert [chunk.text for chunk in chunks] == ["a", ""]
    assert engine.asked == [0, None]
    assert measure.tokens == 0
    with pytest.raises(UnsupportedError):
        await follow(measure, engine, request(logprobs=1))


async def test_other_refusals_stay() -> None:
    def produce(request: GenerateRequest) -> list[CompletionChunk]:
        raise UnsupportedError("no grammar here", param="grammar")

    engine = Engine(produce)
    with pytest.raises(UnsupportedError, match="grammar"):
        await follow(PerplexityMeasure(), engine, request())
    assert engine.asked == [0]


async def test_closing_the_stream_closes_the_engines() -> None:
    measure, engine = PerplexityMeasure(), Engine(with_logprobs(-1.0, -1.0))
    async with aclosing(measure.follow(engine.generate, request())) as chunks:
        await anext(chunks)
        assert engine.open == 1
    assert engine.open == 0
    assert measure.tokens == 0
