"""The torch engine against transformers' own `generate`, both called in process, in turns.

`generate` gets its whole batch at once, all prompts of one length; the engine gets the same prompts
one by one, at random moments of the first second. Each has a process of its own.
"""

from __future__ import annotations

import asyncio
import random
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median

from msgspec import to_builtins

from benchmarks.in_process import (
    PROMPT,
    Peer,
    Prompts,
    Turn,
    answer,
    crowd,
    peer_process,
    random_prompts,
    torch_engine,
)
from benchmarks.make_checkpoint import make_checkpoint
from benchmarks.peer_servers import thread_settings
from benchmarks.results import Goal, Result
from openllm.config.model import LoadOptions
from openllm.engines.base import Engine

CONCURRENCY = 32
ARRIVAL = 1.0
"""Seconds within which all requests arrive, each at a moment drawn evenly."""
SINGLES = 3
"""Requests of a round at c=1, one after another."""
LEAST_RATIO = {1: 1.0, CONCURRENCY: 0.95}
NAMES = {1: "c=1, generate alone", CONCURRENCY: f"c={CONCURRENCY}, one static batch"}

Pairs = list[tuple[Turn, Turn]]


def run(rounds: int = 5, threads: int = 2, output: int = 128) -> Result:
    """Measure one request at a time, then a crowd against a batch."""
    folder = make_checkpoint()
    settings = thread_settings(threads)
    with peer_process("transformers_generate", str(folder), str(threads), env=settings) as peer:
        turns = asyncio.run(_measure(folder, peer, rounds, threads, output))
    ratios = {
        count: [ours.rate / theirs.rate for ours, theirs in pairs] for count, pairs in turns.items()
    }
    return Result(
        benchmark="torch_generate",
        goals=[
            Goal(
                f"output tok/s, torch engine / generate, {NAMES[count]}",
                median(ratios[count]),
                LEAST_RATIO[count],
                at_least=True,
            )
            for count in turns
        ],
        figures={
            f"c={count}": {
                "output_throughput_ratio": median(ratios[count]),
                "output_throughput_ratios": ratios[count],
                "openllm": median(ours.rate for ours, _ in pairs),
                "generate": median(theirs.rate for _, theirs in pairs),
            }
            for count, pairs in turns.items()
        },
        data={
            "versions": {name: version(name) for name in ("torch", "transformers")},
            "settings": {"threads": threads, "arrival_s": ARRIVAL, "prompt_tokens": PROMPT},
            "turns": {f"c={count}": to_builtins(pairs) for count, pairs in turns.items()},
        },
        notes=_notes(turns, output),
    )


async def _measure(
    folder: Path, peer: Peer, rounds: int, threads: int, output: int
) -> dict[int, Pairs]:
    rng = random.Random(0)
    options = LoadOptions(threads=threads, max_concurrency=CONCURRENCY, embeddings=False)
    turns: dict[int, Pairs] = {1: [], CONCURRENCY: []}
    async with torch_engine(folder, options) as engine:
        for number in range(-1, rounds):  # The first is to warm up.
            tokens = 16 if number < 0 else output
            alone = await _alone(engine, peer, random_prompts(rng, SINGLES), tokens)
            prompts = random_prompts(rng, CONCURRENCY)
            delays = [rng.uniform(0.0, ARRIVAL) for _ in prompts]
            ours = await crowd(engine, prompts, delays, tokens)
            theirs = await asyncio.to_thread(peer.generate, prompts, tokens)
            if number >= 0:
                turns[1].append(alone)
                turns[CONCURRENCY].append((ours, theirs))
    return turns


async def _alone(engine: Engine, peer: Peer, prompts: Prompts, output: int) -> tuple[Turn, Turn]:
    begin = time.perf_counter()
    tokens = [await answer(engine, prompt, output) for prompt in prompts]
    ours = Turn(time.perf_counter() - begin, sum(tokens))
    turns = [await asyncio.to_thread(peer.generate, [prompt], output) for prompt in prompts]
    return ours, Turn(sum(one.seconds for one in turns), sum(one.tokens for one in turns))


def _notes(turns: dict[int, Pairs], output: int) -> list[str]:
    wanted = {1: SINGLES * output, CONCURRENCY: CONCURRENCY * output}
    made = {
        f"c={count}": sorted({turn.tokens for pair in pairs for turn in pair})
        for count, pairs in turns.items()
        if any(turn.tokens != wanted[count] for pair in pairs for turn in pair)
    }
    return [f"not all tokens asked for were made: {made}"] if made else []
