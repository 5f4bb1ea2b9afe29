"""GET /metrics: what the server and its models do, in the text formats of Prometheus.

Everything is counted elsewhere, as plain numbers; they are put into words when they are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import get_args

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from openllm import __version__
from openllm.fleet import Fleet
from openllm.fleet.measure_histogram import Histogram
from openllm.fleet.measure_perplexity import PerplexityMeasure
from openllm.fleet.measures import ModelMeasures, ModelReport
from openllm.fleet.served import ModelState
from openllm.server.metrics_requests import RequestMeasures

Rows = Iterable[tuple[Sequence[str], float]]
Histograms = Iterable[tuple[Sequence[str], Histogram]]

COUNTERS: Sequence[tuple[str, str, Callable[[ModelMeasures], int]]] = (
    (
        "openllm_prompt_tokens_total",
        "Tokens of the prompts of generations that came to an end, and of embedded texts.",
        lambda measures: measures.prompt_tokens,
    ),
    (
        "openllm_prompt_tokens_cached_total",
        "Those of them that the engine remembered and did not read again.",
        lambda measures: measures.cached_tokens,
    ),
    (
        "openllm_generated_tokens_total",
        "Generated tokens, counted when their request ends, however it does.",
        lambda measures: measures.generated_tokens,
    ),
    (
        "openllm_model_restarts_total",
        "Times that a new process took the place of the model's dead one.",
        lambda measures: measures.restarts,
    ),
)
HISTOGRAMS: Sequence[tuple[str, str, Callable[[ModelMeasures], Histogram]]] = (
    (
        "openllm_request_queue_time_seconds",
        "Time that a generation waited for its turn.",
        lambda measures: measures.queue_seconds,
    ),
    (
        "openllm_time_to_first_token_seconds",
        "Time from a generation's arrival to its first token, the queue included.",
        lambda measures: measures.first_token_seconds,
    ),
    (
        "openllm_time_per_output_token_seconds",
        "Mean time between the tokens of a sequence, from the first one to the last.",
        lambda measures: measures.token_seconds,
    ),
)


def metrics_route(fleet: Fleet, requests: RequestMeasures) -> Route:
    """Return the route; `requests` are those that the guard counts."""
    registry = CollectorRegistry()
    registry.register(_Measures(fleet, requests))
    ProcessCollector(registry=registry)

    async def metrics(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"content-type": content_type})

    return Route("/metrics", metrics)


class _Measures(Collector):
    def __init__(self, fleet: Fleet, requests: RequestMeasures) -> None:
        self._fleet = fleet
        self._requests = requests

    def collect(self) -> Iterator[Metric]:
        reports = self._fleet.reports()
        yield _gauge(
            "openllm_build_info", "The version, as a label.", ["version"], [((__version__,), 1.0)]
        )
        yield from _of_requests(self._requests)
        yield from _of_now(reports)
        yield from _of_models(reports)
        yield from _of_perplexity(reports)


def _of_requests(requests: RequestMeasures) -> Iterator[Metric]:
    yield _counter(
        "openllm_requests_total",
        "HTTP requests that have ended; status 499 is a client that left before its answer began.",
        ["route", "model", "status"],
        requests.counts.items(),
    )
    yield _histogram(
        "openllm_request_duration_seconds",
        "Time from the headers of an HTTP request to the last byte of its answer.",
        ["route", "model"],
        requests.seconds.items(),
    )


def _of_now(reports: Sequence[ModelReport]) -> Iterator[Metric]:
    yield _gauge(
        "openllm_model_state",
        "1 for the state that the model is in, 0 for the others.",
        ["model", "state"],
        [
            ((report.name, state), float(state == report.state))
            for report in reports
            for state in get_args(ModelState)
        ],
    )
    yield _gauge(
        "openllm_requests_running",
        "Places of the engine in use: a generation of n sequences takes n.",
        ["model"],
        [((report.name,), report.running) for report in reports],
    )
    yield _gauge(
        "openllm_requests_waiting",
        "Requests in the queue for a place.",
        ["model"],
        [((report.name,), report.waiting) for report in reports],
    )


def _of_models(reports: Sequence[ModelReport]) -> Iterator[Metric]:
    yield _counter(
        "openllm_generations_total",
        "Sequences by why they ended: stop, length, cancelled (the client left or the time was "
        "over), refused (a wrong request or a full queue) or error.",
        ["model", "finish_reason"],
        [
            ((report.name, reason), count)
            for report in reports
            for reason, count in report.measures.ended.items()
        ],
    )
    for name, about, number in COUNTERS:
        rows = [((report.name,), number(report.measures)) for report in reports]
        yield _counter(name, about, ["model"], rows)
    for name, about, histogram in HISTOGRAMS:
        each = [((report.name,), histogram(report.measures)) for report in reports]
        yield _histogram(name, about, ["model"], each)


def _of_perplexity(reports: Sequence[ModelReport]) -> Iterator[Metric]:
    measured: list[tuple[tuple[str], PerplexityMeasure]] = [
        ((report.name,), report.measures.perplexity)
        for report in reports
        if report.measures.perplexity is not None
    ]
    if not measured:
        return
    yield _histogram(
        "openllm_perplexity",
        "Perplexity of each generated sequence: exp of minus the mean logprob of its tokens.",
        ["model"],
        [(labels, each.histogram) for labels, each in measured],
    )
    yield _counter(
        "openllm_perplexity_nats_total",
        "Sum of minus the natural logprobs of the tokens of those sequences; exp of this over "
        "openllm_perplexity_tokens_total is the perplexity of all of them together.",
        ["model"],
        [(labels, each.nats) for labels, each in measured],
    )
    yield _counter(
        "openllm_perplexity_tokens_total",
        "Tokens of those sequences.",
        ["model"],
        [(labels, each.tokens) for labels, each in measured],
    )


def _counter(name: str, about: str, labels: Sequence[str], rows: Rows) -> Metric:
    family = CounterMetricFamily(name, about, labels=labels)
    for values, number in rows:
        family.add_metric(values, number)
    return family


def _gauge(name: str, about: str, labels: Sequence[str], rows: Rows) -> Metric:
    family = GaugeMetricFamily(name, about, labels=labels)
    for values, number in rows:
        family.add_metric(values, number)
    return family


def _histogram(name: str, about: str, labels: Sequence[str], rows: Histograms) -> Metric:
    family = HistogramMetricFamily(name, about, labels=labels)
    for values, histogram in rows:
        family.add_metric(values, _buckets(histogram), histogram.sum)
    return family


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """Return how many values were at most each bound, as Prometheus has it."""
    total = 0
    buckets: list[tuple[str, float]] = []
    for bound, count in zip((*map(str, histogram.bounds), "+Inf"), histogram.counts, strict=True):
        total += count
        buckets.append((bound, total))
    return buckets
