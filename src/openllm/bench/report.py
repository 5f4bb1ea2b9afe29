"""From records to figures: pure functions, so that every definition can be tested exactly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from math import ceil, floor
from statistics import fmean, median

from msgspec import Struct

from openllm.bench.run import Run, Side
from openllm.bench.settings import RequestRecord


class Spread(Struct, frozen=True):
    """Mean and percentiles of one metric, in milliseconds."""

    mean: float
    p50: float
    p90: float
    p99: float


class Summary(Struct, frozen=True, kw_only=True):
    """Figures of one load; rates are per second of `duration_s`, complete replies alone count.

    Attributes:
        ttft_ms, itl_ms, tpot_ms, e2el_ms: None where no reply has the metric.
        goodput: Complete replies per second within all limits; None without limits.
        tokens_counted: The server sent no usage with some reply; its chunks were counted.
        prompt_tokens_mean: As counted by the server; None if it never said.
        send_lag_p99_ms: How late the generator itself was (open loop).
    """

    completed: int
    failed: int
    errors: dict[str, int]
    error_details: dict[str, str]
    duration_s: float
    prompt_tokens_mean: float | None
    output_tokens: int
    output_tokens_mean: float
    tokens_counted: bool
    request_throughput: float
    output_throughput: float
    goodput: float | None
    ttft_ms: Spread | None
    itl_ms: Spread | None
    tpot_ms: Spread | None
    e2el_ms: Spread | None
    send_lag_p99_ms: float


class Comparison(Struct, frozen=True):
    """A against B, each figure the median over rounds; ratios are A divided by B."""

    output_throughput_ratio: float | None
    request_throughput_ratio: float | None
    ttft_p50_difference_ms: float | None
    itl_p50_difference_ms: float | None
    output_throughput_ratios: list[float]
    ttft_p50_differences_ms: list[float]


def tpot(record: RequestRecord) -> float | None:
    """Seconds per output token after the first; None for a reply of fewer than two tokens."""
    if record.ttft is None or record.output_tokens < 2:
        return None
    return (record.latency - record.ttft) / (record.output_tokens - 1)


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value below which `share` of the sorted values lie, interpolated linearly."""
    place = (len(ordered) - 1) * share
    low, high = ordered[floor(place)], ordered[ceil(place)]
    return low + (high - low) * (place - floor(place))


def spread(seconds: Sequence[float]) -> Spread | None:
    """Mean and percentiles in milliseconds; None of nothing."""
    if not seconds:
        return None
    ordered = sorted(value * 1000.0 for value in seconds)
    return Spread(fmean(ordered), *(percentile(ordered, share) for share in (0.5, 0.9, 0.99)))


def is_good(record: RequestRecord, limits: Mapping[str, float]) -> bool:
    """Whether a complete reply kept every limit (ms); a one-token reply keeps any `tpot`."""
    values = {"ttft": record.ttft, "tpot": tpot(record), "e2el": record.latency}
    return all((values[name] or 0.0) * 1000.0 <= limit for name, limit in limits.items())


def summarise(
    records: Sequence[RequestRecord], duration: float, goodput: Mapping[str, float]
) -> Summary:
    """Work out the figures of `records`, gathered over `duration` seconds of load."""
    done = [record for record in records if record.error is None]
    failed = [record for record in records if record.error is not None]
    tokens = sum(record.output_tokens for record in done)
    prompts = [record.prompt_tokens for record in done if record.prompt_tokens is not None]
    good = sum(is_good(record, goodput) for record in done)
    lags = sorted(record.lag * 1000.0 for record in records)
    return Summary(
        completed=len(done),
        failed=len(failed),
        errors=dict(Counter(record.error or "" for record in failed)),
        error_details={record.error or "": record.detail for record in reversed(failed)},
        duration_s=duration,
        prompt_tokens_mean=fmean(prompts) if prompts else None,
        output_tokens=tokens,
        output_tokens_mean=tokens / len(done) if done else 0.0,
        tokens_counted=any(record.counted for record in done),
        request_throughput=_per_second(len(done), duration),
        output_throughput=_per_second(tokens, duration),
        goodput=_per_second(good, duration) if goodput else None,
        ttft_ms=spread([record.ttft for record in done if record.ttft is not None]),
        itl_ms=spread([gap for record in done for gap in record.gaps]),
        tpot_ms=spread([value for record in done if (value := tpot(record)) is not None]),
        e2el_ms=spread([record.latency for record in done]),
        send_lag_p99_ms=percentile(lags, 0.99) if lags else 0.0,
    )


def summarise_side(side: Side, goodput: Mapping[str, float]) -> Summary:
    """All rounds of one server together."""
    return summarise(side.records, sum(one.duration for one in side.rounds), goodput)


def compare(run: Run) -> Comparison | None:
    """Set the first server against the second, round by round; None if there is one server."""
    if len(run.sides) < 2:
        return None
    rounds = [
        tuple(summarise(one.records, one.duration, {}) for one in pair)
        for pair in zip(*(side.rounds for side in run.sides), strict=False)
    ]
    pairs = [(a, b) for a, b in rounds if a.completed and b.completed]
    ratios = [a.output_throughput / b.output_throughput for a, b in pairs if b.output_tokens]
    waits = [a.ttft_ms.p50 - b.ttft_ms.p50 for a, b in pairs if a.ttft_ms and b.ttft_ms]
    return Comparison(
        output_throughput_ratio=_median(ratios),
        request_throughput_ratio=_median(
            [a.request_throughput / b.request_throughput for a, b in pairs]
        ),
        ttft_p50_difference_ms=_median(waits),
        itl_p50_difference_ms=_median(
            [a.itl_ms.p50 - b.itl_ms.p50 for a, b in pairs if a.itl_ms and b.itl_ms]
        ),
        output_throughput_ratios=ratios,
        ttft_p50_differences_ms=waits,
    )


def _median(values: Sequence[float]) -> float | None:
    return median(values) if values else None


def _per_second(amount: int, duration: float) -> float:
    return amount / duration if duration > 0 else 0.0
