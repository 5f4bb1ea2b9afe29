"""Our API on the torch engine against `transformers serve --continuous-batching`, both bfloat16."""

from __future__ import annotations

from importlib.metadata import version

from benchmarks.http_pair import (
    compare_at,
    figures,
    idle_notes,
    run_name,
    run_notes,
    side,
    throughput_ratio,
)
from benchmarks.make_checkpoint import make_checkpoint
from benchmarks.peer_servers import BLOCKS, peer_version, transformers_server
from benchmarks.results import Goal, Result
from benchmarks.servers import openllm_server
from openllm.bench.document import document
from openllm.bench.settings import Endpoint

CONCURRENCY = 32
LEVELS: tuple[tuple[Endpoint, int], ...] = (
    ("completions", 1),
    ("completions", 8),
    ("completions", 32),
)
LEAST_RATIO = 1.3


def run(rounds: int = 5, threads: int = 2, output: int = 128) -> Result:
    """Measure /v1/completions, streamed, at each of `LEVELS`."""
    folder = make_checkpoint()
    options = ("--backend", "torch", "--max-concurrency", str(CONCURRENCY))
    with (
        openllm_server(
            f"benchmark={folder}", *options, "--threads", str(threads), "--no-embeddings"
        ) as ours,
        transformers_server(folder, threads) as theirs,
    ):
        sides = [side("openllm", ours), side("transformers serve", theirs, str(folder))]
        # The peer loads its model with the first request, so it rests only after the load.
        runs = compare_at(sides, LEVELS, rounds, output)
        idle = {"openllm": ours.idle_cpu(), "transformers serve": theirs.idle_cpu()}
    return Result(
        benchmark="transformers_serve",
        goals=[
            Goal(
                f"output tok/s, ours / transformers serve, {run_name(one)}",
                throughput_ratio(one),
                LEAST_RATIO,
                at_least=True,
            )
            for one in runs
        ],
        figures={run_name(one): figures(one) for one in runs},
        data={
            "ours": {name: version(name) for name in ("torch", "transformers")},
            "theirs": {
                name: peer_version("transformers", name) for name in ("torch", "transformers")
            },
            "engine": {"concurrency": CONCURRENCY, "threads": threads, "peer_blocks": BLOCKS},
            "idle_cpu": idle,
            "runs": [document(one) for one in runs],
        },
        notes=idle_notes(idle) + run_notes(runs),
    )
