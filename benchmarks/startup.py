"""How long the first help and the first token take."""

from __future__ import annotations

import subprocess
import time
from statistics import median

import uvloop

from benchmarks.results import Goal, Result
from benchmarks.servers import OPENLLM, RunningServer, openllm_server
from openllm.bench.http_client import parse_target
from openllm.bench.run import Run, Side, run_bench
from openllm.bench.settings import BenchSettings, LengthRange


def run(helps: int = 20, starts: int = 3, model: str = "demo") -> Result:
    """Time `openllm --help`, then `openllm start` to first token; the first start is dropped."""
    help_times = [_help() for _ in range(helps)]
    first_tokens, memory = [], []
    for _ in range(starts + 1):
        with openllm_server(model) as server:
            first_tokens.append(_first_token(server))
            memory.append(server.api_process().memory_info().rss / 1e6)
    help_ms, start_s = median(help_times) * 1000.0, median(first_tokens[1:])
    return Result(
        benchmark="startup",
        goals=[
            Goal("openllm --help, median", help_ms, 150.0, "ms"),
            Goal(f"openllm start {model} to first token, later starts", start_s, 3.0, "s"),
            Goal("API process resident memory after one reply", median(memory), 160.0, "MB"),
        ],
        figures={
            "help_ms": help_ms,
            "first_start_to_first_token_s": first_tokens[0],
            "later_start_to_first_token_s": start_s,
            "api_rss_mb": median(memory),
        },
        data={"help_s": help_times, "first_token_s": first_tokens, "api_rss_mb": memory},
    )


def _help() -> float:
    begin = time.perf_counter()
    subprocess.run([OPENLLM, "--help"], check=True, capture_output=True)
    return time.perf_counter() - begin


def _first_token(server: RunningServer) -> float:
    """Seconds from the launch of the process to the first chunk of text of a chat."""
    settings = BenchSettings(
        concurrency=1, requests=1, warmup=0, output_tokens=LengthRange(4, 4), temperature=None
    )
    one = Run(settings, [Side("openllm", parse_target(server.url))])
    begin = time.perf_counter()
    uvloop.run(run_bench(one))
    (record,) = one.sides[0].records
    if record.ttft is None:
        raise RuntimeError(f"the first request failed: {record.detail}")
    return begin - server.started + record.start + record.ttft
