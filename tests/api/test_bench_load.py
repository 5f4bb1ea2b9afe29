"""The load generator against a peer whose times and counts are known."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from openllm.bench.http_client import parse_target
from openllm.bench.report import Summary, compare, summarise_side
from openllm.bench.run import Run, Side, run_bench
from openllm.bench.settings import BenchSettings
from tests.api.bench_peer import Peer, running


def bench(*peers: Peer, key: str | None = None, **settings: Any) -> Run:
    sides = [
        Side(label, parse_target(peer.url, key)) for label, peer in zip("AB", peers, strict=False)
    ]
    run = Run(BenchSettings(**{"warmup": 0, "concurrency": 2, "requests": 6, **settings}), sides)
    asyncio.run(asyncio.wait_for(run_bench(run), 60))
    return run


def figures(run: Run) -> Summary:
    return summarise_side(run.sides[0], run.settings.goodput)


@pytest.mark.parametrize("endpoint", ["chat", "completions"])
@pytest.mark.parametrize(
    "how", [{}, {"framing": "close"}, {"keep_alive": True}], ids=["chunked", "close", "kept"]
)
def test_figures_are_those_of_the_peer(endpoint: str, how: dict[str, Any]) -> None:
    with running(Peer(tokens=5, first=0.1, gap=0.02, **how)) as peer:
        keep = bool(how.get("keep_alive"))
        run = bench(peer, endpoint=endpoint, keep_alive=keep, goodput={"ttft": 50.0})
    found = figures(run)
    assert (found.completed, found.failed, found.output_tokens) == (6, 0, 30)
    assert found.prompt_tokens_mean == 42.0
    assert found.goodput == 0.0
    assert run.sides[0].model == "scripted"
    assert found.ttft_ms is not None
    assert found.itl_ms is not None
    assert found.tpot_ms is not None
    assert found.e2el_ms is not None
    # On a loaded machine tokens come late, and together; what they take in all is never less.
    assert found.ttft_ms.p50 >= 90.0
    assert 162.0 <= found.e2el_ms.p50 <= 10_000.0
    after_the_first = found.e2el_ms.mean - found.ttft_ms.mean
    assert 4 * found.itl_ms.mean == pytest.approx(after_the_first, abs=1.0)
    assert 4 * found.tpot_ms.mean == pytest.approx(after_the_first, abs=1.0)
    assert found.duration_s >= 3 * 0.18 * 0.9
    assert all(len(record.gaps) == 4 for record in run.sides[0].records)
    assert "messages" in peer.requests[0] if endpoint == "chat" else "prompt" in peer.requests[0]


def test_a_connection_for_each_request_unless_asked_to_keep_them() -> None:
    with running(Peer(keep_alive=True, first=0.0, gap=0.0)) as peer:
        bench(peer, concurrency=1)
        each = peer.connections
        bench(peer, concurrency=1, keep_alive=True)
    assert each == 7
    assert peer.connections - each == 1


def test_a_kept_connection_that_the_server_closed_is_opened_again() -> None:
    with running(Peer(keep_alive=False, first=0.0, gap=0.0)) as peer:
        run = bench(peer, concurrency=1, keep_alive=True)
    assert figures(run).completed == 6


def test_a_closed_loop_keeps_the_concurrency() -> None:
    with running(Peer(first=0.2)) as peer:
        bench(peer, concurrency=4, requests=12)
    assert peer.most_in_flight == 4
    assert len(peer.requests) == 12


def test_an_open_loop_sends_at_its_rate_without_waiting() -> None:
    with running(Peer(first=0.5, tokens=1)) as peer:
        run = bench(peer, concurrency=None, rate=100.0, requests=30)
    starts = [record.start for record in run.sides[0].records]
    assert figures(run).completed == 30
    assert peer.most_in_flight >= 10
    assert 0.05 <= max(starts) - min(starts) <= 5.0


@pytest.mark.parametrize("load", [{"concurrency": 2}, {"concurrency": None, "rate": 50.0}])
def test_a_duration_ends_the_load(load: dict[str, Any]) -> None:
    with running(Peer(first=0.01, gap=0.0)) as peer:
        run = bench(peer, requests=100_000, duration=0.5, **load)
    found = figures(run)
    assert 1 <= found.completed < 1000
    assert 0.3 <= found.duration_s <= 10.0


def test_tokens_are_counted_as_chunks_without_usage() -> None:
    with running(Peer(usage=False)) as peer:
        found = figures(bench(peer))
    assert (found.output_tokens, found.tokens_counted) == (30, True)
    assert found.prompt_tokens_mean is None


@pytest.mark.parametrize(
    ("peer", "kind", "detail"),
    [
        (Peer(status=500), "http_500", "no such luck"),
        (Peer(fault="cut"), "closed", "closed"),
        (Peer(fault="cut", framing="close"), "incomplete", "ended"),
        (Peer(fault="error"), "stream_error", "the engine fell over"),
        (Peer(fault="plain"), "protocol", "application/json"),
        (Peer(fault="garbage"), "protocol", "not HTTP"),
        (Peer(fault="silent"), "timeout", "in 1 s"),
        (Peer(tokens=0, usage=False), "empty", "no text"),
    ],
    ids=lambda value: value.fault or f"{value.status}" if isinstance(value, Peer) else None,
)
def test_failures_are_counted_by_kind(peer: Peer, kind: str, detail: str) -> None:
    with running(peer):
        found = figures(bench(peer, requests=2, timeout=1 if kind == "timeout" else 20))
    assert found.errors == {kind: 2}
    assert detail in found.error_details[kind]
    assert found.completed == 0


def test_failures_beside_complete_replies() -> None:
    with running(Peer(fault="cut", fault_from=3)) as peer:
        found = figures(bench(peer, concurrency=1))
    assert (found.completed, found.errors) == (3, {"closed": 3})


def test_a_failing_server_is_not_hammered() -> None:
    with running(Peer(status=503)) as peer:
        bench(peer, concurrency=2, requests=100_000, duration=0.5)
    assert len(peer.requests) <= 20


def test_prompts_come_close_to_the_length_asked_for() -> None:
    with running(Peer()) as peer:
        bench(peer, warmup=1, requests=1, concurrency=1)
    warm, measured = (len(one["messages"][0]["content"].split()) for one in peer.requests)
    assert warm == 32
    assert measured == round(32 * 32 / 42)


def test_two_servers_take_turns() -> None:
    with running(Peer(first=0.3)) as slow, running(Peer(first=0.01)) as fast:
        run = bench(slow, fast, rounds=3, requests=2)
    rounds = sorted((one.start, side.label) for side in run.sides for one in side.rounds)
    assert [label for _, label in rounds] == ["A", "B"] * 3
    assert slow.requests == fast.requests
    found = compare(run)
    assert found is not None
    assert found.ttft_p50_difference_ms is not None
    assert found.ttft_p50_difference_ms > 25.0
    assert found.output_throughput_ratio is not None
    assert found.output_throughput_ratio < 1.0


def test_two_hundred_streams_at_once() -> None:
    with running(Peer(first=0.2, gap=0.0)) as peer:
        found = figures(bench(peer, concurrency=200, requests=200))
    assert (found.completed, found.failed) == (200, 0)


def test_the_generator_itself_is_light() -> None:
    with running(Peer(tokens=2000, first=0.0, gap=0.0)) as peer:
        before = time.thread_time()
        found = figures(bench(peer, concurrency=4, requests=8))
        spent = time.thread_time() - before
    assert found.output_tokens == 16_000
    assert spent / 16_000 <= 100e-6
