"""Our API on the torch engine against FastChat, which does not batch; both bfloat16.

FastChat 0.2.36 cannot stream with today's pydantic, so neither side streams.
"""

from __future__ import annotations

from importlib.metadata import version

from benchmarks.http_pair import (
    compare_at,
    figures,
    idle_notes,
    run_name,
    run_notes,
    run_plain,
    side,
    throughput_ratio,
)
from benchmarks.make_checkpoint import make_checkpoint
from benchmarks.peer_servers import fastchat_server, peer_version
from benchmarks.results import Goal, Result
from benchmarks.servers import openllm_server
from openllm.bench.document import document

CONCURRENCY = 8
LEAST_RATIO = 5.0


def run(rounds: int = 3, threads: int = 2, output: int = 128) -> Result:
    """Measure /v1/completions, not streamed, at eight in flight."""
    folder = make_checkpoint()
    options = ("--backend", "torch", "--threads", str(threads), "--no-embeddings")
    with (
        openllm_server(f"benchmark={folder}", *options) as ours,
        fastchat_server(folder, threads) as theirs,
    ):
        idle = {"openllm": ours.idle_cpu(), "FastChat": theirs.idle_cpu()}
        sides = [side("openllm", ours), side("FastChat", theirs)]
        runs = compare_at(
            sides, [("completions", CONCURRENCY)], rounds, output, drive=run_plain, ignore_eos=False
        )
    return Result(
        benchmark="fastchat",
        goals=[
            Goal(
                f"output tok/s, ours / FastChat, {run_name(one)}",
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
                name: peer_version("fastchat", name) for name in ("fschat", "torch", "transformers")
            },
            "engine": {"threads": threads},
            "idle_cpu": idle,
            "runs": [document(one) for one in runs],
        },
        notes=idle_notes(idle) + run_notes(runs),
    )
