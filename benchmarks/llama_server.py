"""Our API against llama-server's C++ front end: same engine build, same model, same settings.

Both servers stay up, one works at a time, and they take turns round by round, so that what
disturbs the machine disturbs both. Quoted are medians of the ratios made within a round.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.make_model import make_model
from benchmarks.results import Goal, Result
from benchmarks.servers import RunningServer, llama_server, openllm_server
from openllm.bench.document import document
from openllm.bench.http_client import parse_target
from openllm.bench.report import Comparison, compare, summarise_side
from openllm.bench.run import Run, Side, run_bench
from openllm.bench.settings import BenchSettings, Endpoint, LengthRange

SLOTS = 8
CONTEXT = 1024
OUTPUT = 128
REQUESTS = {1: 5, 8: 24}
"""Requests of a round by concurrency: five to ten seconds of work on two cores."""

LEAST_RATIO = {1: 0.97, 8: 1.00}
MOST_WAIT_MS = {1: 2.0, 8: 5.0}
IDLE_CPU = 0.02
"""CPU share above which an idle server disturbs the other one's turn."""


def run(
    rounds: int = 5, threads: int = 2, output: int = OUTPUT, model: Path | None = None
) -> Result:
    """Measure /v1/completions and /v1/chat/completions at one and at eight in flight."""
    path = model or make_model()
    with (
        openllm_server(f"benchmark={path}", *_options(threads)) as ours,
        llama_server(path, SLOTS, CONTEXT, threads) as theirs,
    ):
        idle = {"openllm": ours.idle_cpu(), "llama-server": theirs.idle_cpu()}
        runs = [
            _measure(ours, theirs, endpoint, concurrency, rounds, output)
            for endpoint in ("completions", "chat")
            for concurrency in REQUESTS
        ]
    return Result(
        benchmark="llama_server",
        goals=[goal for one in runs for goal in _goals(one)],
        figures={_name(one): _figures(_compared(one)) for one in runs},
        data={
            "xllamacpp": version("xllamacpp"),
            "engine": {"slots": SLOTS, "context": CONTEXT, "threads": threads},
            "idle_cpu": idle,
            "runs": [document(one) for one in runs],
        },
        notes=_notes(idle, runs),
    )


def _options(threads: int) -> Sequence[str]:
    return (
        *("--max-concurrency", str(SLOTS), "--context-length", str(CONTEXT)),
        *("--threads", str(threads), "--gpu-layers", "0", "--no-embeddings"),
    )


def _measure(
    ours: RunningServer,
    theirs: RunningServer,
    endpoint: Endpoint,
    concurrency: int,
    rounds: int,
    output: int,
) -> Run:
    settings = BenchSettings(
        endpoint=endpoint,
        concurrency=concurrency,
        requests=REQUESTS[concurrency],
        prompt_tokens=LengthRange(32, 32),
        output_tokens=LengthRange(output, output),
        ignore_eos=True,
        rounds=rounds,
        warmup=max(2, concurrency),
        timeout=120.0,
    )
    sides = [
        Side("openllm", parse_target(ours.url)),
        Side("llama-server", parse_target(theirs.url)),
    ]
    one = Run(settings, sides)
    uvloop.run(run_bench(one))
    return one


def _compared(run: Run) -> Comparison:
    found = compare(run)
    if found is None or found.output_throughput_ratio is None:
        details = {record.detail for side in run.sides for record in side.records if record.error}
        raise RuntimeError(f"no round of {_name(run)} could be compared: {sorted(details)}")
    return found


def _name(run: Run) -> str:
    return f"{run.settings.endpoint} c={run.settings.concurrency}"


def _figures(found: Comparison) -> dict[str, Any]:
    return {
        "output_throughput_ratio": found.output_throughput_ratio,
        "ttft_p50_difference_ms": found.ttft_p50_difference_ms,
        "itl_p50_difference_ms": found.itl_p50_difference_ms,
    }


def _goals(run: Run) -> list[Goal]:
    found, name = _compared(run), _name(run)
    concurrency = run.settings.concurrency or 1
    wait = found.ttft_p50_difference_ms
    return [
        Goal(
            f"output tok/s, ours / llama-server, {name}",
            found.output_throughput_ratio or 0.0,
            LEAST_RATIO[concurrency],
            at_least=True,
        ),
        Goal(
            f"TTFT p50, ours - llama-server, {name}",
            float("inf") if wait is None else wait,
            MOST_WAIT_MS[concurrency],
            "ms",
        ),
    ]


def _notes(idle: dict[str, float], runs: Sequence[Run]) -> list[str]:
    notes = [
        f"{name} burns {share:.0%} of a core while idle, which disturbs the other's turn"
        for name, share in idle.items()
        if share > IDLE_CPU
    ]
    for one in runs:
        for side in one.sides:
            records = side.records
            if failed := sum(record.error is not None for record in records):
                notes.append(f"{_name(one)}: {failed} requests to {side.label} failed")
            wanted = one.settings.output_tokens.low
            if any(record.output_tokens != wanted for record in records if not record.error):
                notes.append(f"{_name(one)}: {side.label} did not always make {wanted} tokens")
        read = [summarise_side(side, {}).prompt_tokens_mean for side in one.sides]
        if read[0] != read[1]:
            notes.append(f"{_name(one)}: the servers read prompts of {read} tokens on average")
    return notes
