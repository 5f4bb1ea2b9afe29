"""The figures, exactly as defined, from records made by hand."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from openllm.bench.document import document, write_document
from openllm.bench.http_client import parse_target
from openllm.bench.plot import token_rates, write_plot
from openllm.bench.report import (
    Spread,
    compare,
    is_good,
    percentile,
    spread,
    summarise,
    tpot,
)
from openllm.bench.run import Round, Run, Side
from openllm.bench.settings import BenchSettings, RequestRecord
from openllm.bench.table import notes, print_report


def record(**changes: Any) -> RequestRecord:
    values: dict[str, Any] = {
        "start": 0.0,
        "ttft": 0.1,
        "latency": 0.5,
        "gaps": (0.1, 0.3),
        "prompt_tokens": 10,
        "output_tokens": 5,
    }
    return RequestRecord(**{**values, **changes})


FAILED = record(error="http_500", detail="status 500: broken", ttft=None, gaps=(), output_tokens=0)


def side(label: str, *rounds: tuple[float, list[RequestRecord]], url: str = "") -> Side:
    target = parse_target(url or "http://127.0.0.1:9/v1")
    held = [Round(n, float(n), seconds, records) for n, (seconds, records) in enumerate(rounds)]
    return Side(label, target, f"model-{label}", held)


def test_percentiles_are_interpolated() -> None:
    values = [10.0, 20.0, 30.0, 40.0]
    assert percentile(values, 0.5) == 25.0
    assert percentile(values, 0.9) == pytest.approx(37.0)
    assert percentile(values, 0.99) == pytest.approx(39.7)
    assert percentile([3.0], 0.99) == 3.0


@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=50))
def test_percentiles_are_those_of_the_standard_library(values: list[float]) -> None:
    expected = statistics.quantiles(values, n=100, method="inclusive")
    for share in (50, 90, 99):
        assert percentile(sorted(values), share / 100) == pytest.approx(expected[share - 1])


def test_spread_is_in_milliseconds() -> None:
    assert spread([0.001, 0.003]) == Spread(2.0, 2.0, pytest.approx(2.8), pytest.approx(2.98))
    assert spread([]) is None


def test_tpot_leaves_the_first_token_out() -> None:
    assert tpot(record()) == pytest.approx(0.1)
    assert tpot(record(output_tokens=1)) is None
    assert tpot(record(ttft=None)) is None


@pytest.mark.parametrize(
    ("limits", "good"),
    [
        ({"ttft": 100.0, "tpot": 100.001, "e2el": 500.0}, True),
        ({"ttft": 99.0}, False),
        ({"tpot": 99.0}, False),
        ({"e2el": 499.0}, False),
    ],
)
def test_goodput_needs_every_limit_kept(limits: dict[str, float], good: bool) -> None:
    assert is_good(record(), limits) is good


def test_a_reply_of_one_token_has_no_tpot_to_miss() -> None:
    assert is_good(record(output_tokens=1), {"tpot": 0.001})


def test_summary_of_complete_and_failed_requests() -> None:
    records = [record(), record(ttft=0.3, latency=1.1, output_tokens=3, prompt_tokens=20), FAILED]
    summary = summarise(records, 2.0, {"ttft": 200.0})
    assert (summary.completed, summary.failed) == (2, 1)
    assert summary.errors == {"http_500": 1}
    assert summary.error_details == {"http_500": "status 500: broken"}
    assert summary.output_tokens == 8
    assert summary.output_throughput == 4.0
    assert summary.request_throughput == 1.0
    assert summary.goodput == 0.5
    assert summary.prompt_tokens_mean == 15.0
    assert summary.output_tokens_mean == 4.0
    assert summary.ttft_ms is not None
    assert summary.ttft_ms.p50 == pytest.approx(200.0)
    assert summary.itl_ms is not None
    assert summary.itl_ms.mean == pytest.approx(200.0)
    assert summary.tpot_ms is not None
    assert summary.tpot_ms.mean == pytest.approx(250.0)
    assert summary.e2el_ms is not None
    assert summary.e2el_ms.p90 == pytest.approx(1040.0)
    assert not summary.tokens_counted


def test_summary_of_nothing_has_no_figures() -> None:
    summary = summarise([], 0.0, {})
    assert (summary.completed, summary.output_throughput, summary.goodput) == (0, 0.0, None)
    assert summary.ttft_ms is None


def test_comparison_is_the_median_over_rounds() -> None:
    slow, fast = record(ttft=0.2), record(ttft=0.1)
    a = side("A", (1.0, [slow]), (2.0, [slow]), (1.0, [slow]))
    b = side("B", (1.0, [fast]), (1.0, [fast]), (2.0, [fast]))
    found = compare(Run(BenchSettings(rounds=3), [a, b]))
    assert found is not None
    assert found.output_throughput_ratios == [1.0, 0.5, 2.0]
    assert found.output_throughput_ratio == 1.0
    assert found.ttft_p50_difference_ms == pytest.approx(100.0)


def test_a_round_without_a_reply_is_left_out_of_the_comparison() -> None:
    run = Run(BenchSettings(), [side("A", (1.0, [record()])), side("B", (1.0, [FAILED]))])
    found = compare(run)
    assert found is not None
    assert found.output_throughput_ratio is None
    assert compare(Run(BenchSettings(), [side("A", (1.0, [record()]))])) is None


def test_document_is_versioned_and_names_no_host_file_or_prompt(tmp_path: Path) -> None:
    settings = BenchSettings(prompts=("secret prompt",), goodput={"ttft": 1.0})
    remote = side("B", (1.0, [record(), FAILED]), url="https://inference.example/base/v1")
    remote.model = "/srv/private/model.gguf"
    run = Run(settings, [side("A", (1.0, [record()])), remote])
    path = tmp_path / "run.json"
    write_document(run, path)
    text = path.read_text()
    assert json.loads(text)["servers"] == document(run)["servers"]
    for private in ("secret", "inference.example", "/srv/private"):
        assert private not in text
    found = json.loads(text)
    assert found["schema"] == "openllm-bench/1"
    assert found["environment"]["cpu_count"] >= 1
    assert found["settings"]["prompt_file"]["prompts"] == 1
    assert [one["model"] for one in found["servers"]] == ["model-A", "model.gguf"]
    assert found["servers"][1]["rounds"][0]["requests"][1]["error"] == "http_500"
    assert found["comparison"]["output_throughput_ratio"] == 1.0


def test_table_shows_figures_errors_and_notes() -> None:
    settings = BenchSettings(goodput={"ttft": 200.0}, rate=5.0, concurrency=None)
    counted = [record(counted=True, lag=0.5), FAILED]
    run = Run(settings, [side("A", (1.0, counted)), side("B", (2.0, [record()]))], interrupted=True)
    console = Console(width=120)
    with console.capture() as captured:
        print_report(run, console)
    text = captured.get()
    for part in ("5 requests/s", "1 (http_500 1)", "interrupted", "counted as chunks", "A / B"):
        assert part in text


def test_a_good_run_has_no_notes() -> None:
    run = Run(BenchSettings(), [side("A", (1.0, [record()]))])
    assert notes(run, [summarise(run.sides[0].records, 1.0, {})]) == []


def test_throughput_over_time_keeps_every_token() -> None:
    records = [record(start=1.0, ttft=1.0, gaps=(2.0, 2.0), output_tokens=6), FAILED]
    rates = token_rates(records, 1.0)
    assert [(at, rate) for at, rate in enumerate(rates) if rate] == [(2, 2.0), (4, 2.0), (6, 2.0)]


def test_plot_is_a_png(tmp_path: Path) -> None:
    run = Run(BenchSettings(), [side("A", (1.0, [record()])), side("B", (1.0, [FAILED]))])
    path = tmp_path / "run.png"
    write_plot(run, path)
    assert path.read_bytes().startswith(b"\x89PNG\r\n")
