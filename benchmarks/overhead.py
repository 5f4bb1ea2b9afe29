"""What our own house costs: the scripted engine makes tokens from nothing, at a steady pace."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import uvloop

from benchmarks.results import Goal, Result
from benchmarks.servers import RunningServer, cpu_seconds, openllm_server
from openllm.bench.document import document
from openllm.bench.http_client import parse_target
from openllm.bench.report import summarise_side
from openllm.bench.run import Run, Side, run_bench
from openllm.bench.settings import BenchSettings, LengthRange, RequestRecord

STREAMS = 16
STEADY_TOKENS = 1500
STEADY_RATE = 250
CROWD = 1000
CROWD_TOKENS = 40
CROWD_RATE = 4
"""Tokens per second of each stream: slow enough that all of the crowd are open at once."""


def run(rounds: int = 3) -> Result:
    """Measure CPU per chunk, a crowd of streams, and idle memory."""
    with _server("steady", STEADY_RATE, STEADY_TOKENS, STREAMS) as server:
        api = server.api_process()
        memory = api.memory_info().rss / 1e6
        steady = [_steady(server, api) for _ in range(rounds)]
    with _server("crowd", CROWD_RATE, CROWD_TOKENS, CROWD) as server:
        crowd = _load(server, CROWD, CROWD, CROWD_TOKENS)
        after = server.api_process().memory_info().rss / 1e6
    cost = median(one["cpu_us_per_chunk"] for one in steady)
    figures = {
        "cpu_us_per_chunk": cost,
        "idle_rss_mb": memory,
        "rss_after_crowd_mb": after,
        "crowd": _crowd_figures(crowd),
    }
    return Result(
        benchmark="overhead",
        goals=[
            Goal(f"CPU in the API process a chunk, c={STREAMS}", cost, 20.0, "µs"),
            Goal(f"failed or incomplete of {CROWD} streams", _bad(crowd), 0.0),
            Goal("API process resident memory, idle", memory, 160.0, "MB"),
        ],
        figures=figures,
        data={"steady": steady, "crowd": document(crowd)},
        notes=_notes(crowd, steady),
    )


@contextmanager
def _server(name: str, rate: int, tokens: int, slots: int) -> Iterator[RunningServer]:
    script = {
        "tokens_per_second": rate,
        "default": {"tokens": [" word"], "repeat": tokens},
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.script.json"
        path.write_text(json.dumps(script))
        with openllm_server(str(path), "--max-concurrency", str(slots)) as server:
            yield server


def _load(server: RunningServer, concurrency: int, requests: int, tokens: int) -> Run:
    settings = BenchSettings(
        endpoint="chat",
        concurrency=concurrency,
        requests=requests,
        prompt_tokens=LengthRange(8, 8),
        output_tokens=LengthRange(tokens, tokens),
        temperature=None,
        warmup=0,
        timeout=180.0,
    )
    one = Run(settings, [Side("openllm", parse_target(server.url))])
    uvloop.run(run_bench(one))
    return one


def _steady(server: RunningServer, api: psutil.Process) -> dict[str, Any]:
    before = cpu_seconds(api)
    one = _load(server, STREAMS, STREAMS, STEADY_TOKENS)
    spent = cpu_seconds(api) - before
    records = one.sides[0].records
    chunks = sum(_chunks(record) for record in records)
    if not chunks:
        raise RuntimeError(f"no chunk came back: {records[0].detail if records else 'no reply'}")
    return {
        "cpu_s": spent,
        "chunks": chunks,
        "tokens": sum(record.output_tokens for record in records),
        "cpu_us_per_chunk": spent / chunks * 1e6,
        "run": document(one),
    }


def _chunks(record: RequestRecord) -> int:
    return 0 if record.ttft is None else len(record.gaps) + 1


def _bad(run: Run) -> int:
    """Streams that failed, fell short of their tokens, or were never sent."""
    wanted = run.settings.output_tokens.low
    good = [
        record
        for record in run.sides[0].records
        if record.error is None and record.output_tokens == wanted
    ]
    return run.settings.requests - len(good)


def _crowd_figures(run: Run) -> dict[str, Any]:
    summary = summarise_side(run.sides[0], {})
    return {
        "completed": summary.completed,
        "errors": summary.errors,
        "open_at_once": open_at_once(run.sides[0].records),
        "output_tokens": summary.output_tokens,
        "ttft_p99_ms": summary.ttft_ms.p99 if summary.ttft_ms else None,
        "itl_p99_ms": summary.itl_ms.p99 if summary.itl_ms else None,
    }


def open_at_once(records: Sequence[RequestRecord]) -> int:
    """The most streams that were under way at one moment."""
    moments = [(record.start, 1) for record in records]
    moments += [(record.start + record.latency, -1) for record in records]
    now = most = 0
    for _, change in sorted(moments):
        now += change
        most = max(most, now)
    return most


def _notes(crowd: Run, steady: Sequence[dict[str, Any]]) -> list[str]:
    notes = []
    if (most := open_at_once(crowd.sides[0].records)) < CROWD:
        notes.append(f"only {most} of {CROWD} streams were open at once")
    details = sorted({record.detail for record in crowd.sides[0].records if record.error})
    notes += [f"crowd: {detail}" for detail in details[:5]]
    if any(one["chunks"] < 0.98 * one["tokens"] for one in steady):
        notes.append("the server put several tokens into one chunk: it was short of CPU")
    return notes
