"""Our API against llama-server's C++ front end: same engine build, same model, same settings.

Both servers stay up, one works at a time, and they take turns round by round, so that what
disturbs the machine disturbs both. Quoted are medians of the ratios made within a round.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.http_pair import compared, idle_notes, measure, run_name, run_notes, side
from benchmarks.make_model import make_model
from benchmarks.results import Goal, Result
from benchmarks.servers import RunningServer, llama_server, openllm_server
from openllm.bench.document import document
from openllm.bench.report import Comparison
from openllm.bench.run import Run
from openllm.bench.settings import BenchSettings, Endpoint, LengthRange

SLOTS = 8
CONTEXT = 1024
OUTPUT = 128
REQUESTS = {1: 5, 8: 24}
"""Requests of a round by concurrency: five to ten seconds of work on two cores."""

LEAST_RATIO = {1: 0.97, 8: 1.00}
MOST_WAIT_MS = {1: 2.0, 8: 5.0}


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
        figures={run_name(one): _figures(compared(one)) for one in runs},
        data={
            "xllamacpp": version("xllamacpp"),
            "engine": {"slots": SLOTS, "context": CONTEXT, "threads": threads},
            "idle_cpu": idle,
            "runs": [document(one) for one in runs],
        },
        notes=idle_notes(idle) + run_notes(runs),
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
    return measure(settings, [side("openllm", ours), side("llama-server", theirs)])


def _figures(found: Comparison) -> dict[str, Any]:
    return {
        "output_throughput_ratio": found.output_throughput_ratio,
        "ttft_p50_difference_ms": found.ttft_p50_difference_ms,
        "itl_p50_difference_ms": found.itl_p50_difference_ms,
    }


def _goals(run: Run) -> list[Goal]:
    found, name = compared(run), run_name(run)
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
