"""On one CUDA card: the torch engine against transformers' own continuous batching, in turns.

    python -m benchmarks torch_cuda             # or, with a toy model, where there is no card:
    python -m benchmarks.torch_cuda cpu

A model of 1.6 billion random parameters, bfloat16, greedy, 128 tokens out. All requests arrive at
once. At one request at a time each token needs all weights once, so that the card's memory
bandwidth, measured by copying, bounds the speed; the share of it that was reached is reported.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from msgspec import to_builtins
from rich.console import Console

from benchmarks.in_process import PROMPT, Peer, Turn, crowd, peer_process, random_prompts
from benchmarks.in_process import torch_engine as started
from benchmarks.make_checkpoint import make_checkpoint
from benchmarks.make_model import BUILD
from benchmarks.peer_servers import thread_settings
from benchmarks.results import Goal, Result, print_result
from openllm.config.model import LoadOptions
from tools.llama_gguf import LlamaShape

COUNTS = (1, 32, 256)
BLOCKS = 512
"""Blocks of 256 tokens in the peer's cache: each request takes one at least."""
COPIED = 1 << 30
LEAST_RATIO = 1.0

LARGE = LlamaShape(
    vocab_size=49_152,
    hidden_size=2048,
    layers=24,
    heads=16,
    kv_heads=8,
    intermediate_size=8192,
    context_length=2048,
)
TOY = LlamaShape(
    vocab_size=49_152,
    hidden_size=64,
    layers=2,
    heads=2,
    kv_heads=1,
    intermediate_size=128,
    context_length=2048,
)

Pairs = list[tuple[Turn, Turn]]


def run(rounds: int = 5, threads: int = 2, output: int = 128, device: str = "cuda:0") -> Result:
    """Measure at each of `COUNTS`; on a CPU the toy model, only to see that it works.

    Raises:
        RuntimeError: There is no CUDA device, and another one was not asked for.
    """
    name, bandwidth = _describe(device)
    shape, label = (TOY, "toy") if device == "cpu" else (LARGE, "1.6b")
    folder = make_checkpoint(BUILD / f"benchmark-{label}", shape)
    with peer_process(
        "transformers_batching",
        *(str(folder), device, str(BLOCKS)),
        env=thread_settings(threads),
    ) as peer:
        turns = asyncio.run(_measure(folder, peer, rounds, output, device))
    # Every weight is read once a token; tied embeddings are the output layer as well.
    limit = bandwidth / (2 * shape.parameters())
    figures = {f"c={count}": _figures(pairs) for count, pairs in turns.items()}
    for side in ("openllm", "transformers"):
        figures["c=1"][f"{side}_share_of_bandwidth"] = figures["c=1"][side] / limit
    return Result(
        benchmark="torch_cuda",
        goals=[
            Goal(
                f"output tok/s, torch engine / transformers' continuous batching, {count}",
                found["output_throughput_ratio"],
                LEAST_RATIO,
                at_least=True,
            )
            for count, found in figures.items()
        ],
        figures=figures | {"bandwidth_bytes_per_s": bandwidth, "limit_tokens_per_s": limit},
        data={
            "device": name,
            "versions": {package: version(package) for package in ("torch", "transformers")},
            "settings": {"prompt_tokens": PROMPT, "parameters": shape.parameters()},
            "turns": {f"c={count}": to_builtins(pairs) for count, pairs in turns.items()},
        },
        notes=[
            f"c=1: {figures['c=1']['openllm_share_of_bandwidth']:.0%} of the bandwidth of {name}; "
            f"transformers {figures['c=1']['transformers_share_of_bandwidth']:.0%}"
        ],
    )


async def _measure(
    folder: Path, peer: Peer, rounds: int, output: int, device: str
) -> dict[int, Pairs]:
    rng = random.Random(0)
    options = LoadOptions(device=device, max_concurrency=max(COUNTS), embeddings=False)
    turns: dict[int, Pairs] = {count: [] for count in COUNTS}
    async with started(folder, options) as engine:
        for number in range(-1, rounds):  # The first is to warm up.
            for count in COUNTS:
                prompts = random_prompts(rng, count)
                ours = await crowd(engine, prompts, [0.0] * count, output)
                theirs = await asyncio.to_thread(peer.generate, prompts, output)
                if number >= 0:
                    turns[count].append((ours, theirs))
    return turns


def _figures(pairs: Pairs) -> dict[str, Any]:
    ratios = [ours.rate / theirs.rate for ours, theirs in pairs]
    return {
        "output_throughput_ratio": median(ratios),
        "output_throughput_ratios": ratios,
        "openllm": median(ours.rate for ours, _ in pairs),
        "transformers": median(theirs.rate for _, theirs in pairs),
    }


def _describe(device: str) -> tuple[str, float]:
    """Return the device's name and the bytes a second its memory moves in a copy."""
    import torch

    cuda = device != "cpu"
    if cuda and not torch.cuda.is_available():
        raise RuntimeError("torch_cuda needs a CUDA device, and there is none here")
    source = torch.zeros(COPIED, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    times = []
    for _ in range(10):
        begin = time.perf_counter()
        target.copy_(source)
        if cuda:
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - begin)
    del source, target
    if cuda:
        torch.cuda.empty_cache()
    name = torch.cuda.get_device_name(device) if cuda else "a CPU"
    return name, 2 * COPIED / min(times)


if __name__ == "__main__":
    print_result(run(rounds=1, output=16, device=sys.argv[1]), Console())
