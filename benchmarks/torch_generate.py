"""The torch engine against transformers' own `generate`, both called in process, in turns.

`generate` gets its whole batch at once, all prompts of one length; the engine gets the same prompts
one by one, at random moments of the first second. Each has a process of its own.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import IO, Any

from msgspec import Struct, to_builtins

from benchmarks.make_checkpoint import make_checkpoint
from benchmarks.make_model import CONTROLS, SHAPE
from benchmarks.peer_servers import thread_settings
from benchmarks.results import Goal, Result
from benchmarks.servers import ROOT
from openllm.config.model import LoadOptions
from openllm.engines import create_engine
from openllm.engines.base import Engine
from openllm.types import GenerateRequest, LocalModel, SamplingParams

CONCURRENCY = 32
ARRIVAL = 1.0
"""Seconds within which all requests arrive, each at a moment drawn evenly."""
PROMPT = 20
SINGLES = 3
"""Requests of a round at c=1, one after another."""
LEAST_RATIO = {1: 1.0, CONCURRENCY: 0.95}

Prompts = list[list[int]]


class Turn(Struct):
    """What one side did in one round; `tokens` were counted, not taken from what was asked."""

    seconds: float
    tokens: int

    @property
    def rate(self) -> float:
        return self.tokens / self.seconds


class Peer:
    """`generate` in its process: one line in, one line out."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def generate(self, prompts: Prompts, tokens: int) -> Turn:
        """Make `tokens` for every prompt as one batch."""
        _pipe(self._process.stdin).write(json.dumps({"prompts": prompts, "tokens": tokens}) + "\n")
        _pipe(self._process.stdin).flush()
        return Turn(**json.loads(self.read()))

    def read(self) -> str:
        line = _pipe(self._process.stdout).readline()
        if not line:
            raise RuntimeError(f"generate ended with status {self._process.wait()}")
        return line


def run(rounds: int = 5, threads: int = 2, output: int = 128) -> Result:
    """Measure one request at a time, then a crowd against a batch."""
    folder = make_checkpoint()
    with _peer(folder, threads) as peer:
        turns = asyncio.run(_measure(folder, peer, rounds, threads, output))
    ratios = {
        count: [ours.rate / theirs.rate for ours, theirs in pairs] for count, pairs in turns.items()
    }
    names = {1: "c=1, generate alone", CONCURRENCY: f"c={CONCURRENCY}, one static batch"}
    return Result(
        benchmark="torch_generate",
        goals=[
            Goal(
                f"output tok/s, torch engine / generate, {names[count]}",
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
) -> dict[int, list[tuple[Turn, Turn]]]:
    rng = random.Random(0)
    options = LoadOptions(threads=threads, max_concurrency=CONCURRENCY, embeddings=False)
    turns: dict[int, list[tuple[Turn, Turn]]] = {1: [], CONCURRENCY: []}
    async with _started(folder, options) as engine:
        for number in range(-1, rounds):  # The first is to warm up.
            made = 16 if number < 0 else output
            alone = await _alone(engine, peer, _prompts(rng, SINGLES), made)
            crowd = _prompts(rng, CONCURRENCY)
            delays = [rng.uniform(0.0, ARRIVAL) for _ in crowd]
            ours = await _crowd(engine, crowd, delays, made)
            theirs = await asyncio.to_thread(peer.generate, crowd, made)
            if number >= 0:
                turns[1].append(alone)
                turns[CONCURRENCY].append((ours, theirs))
    return turns


async def _alone(engine: Engine, peer: Peer, prompts: Prompts, output: int) -> tuple[Turn, Turn]:
    begin = time.perf_counter()
    tokens = [await _answer(engine, prompt, output) for prompt in prompts]
    ours = Turn(time.perf_counter() - begin, sum(tokens))
    turns = [await asyncio.to_thread(peer.generate, [prompt], output) for prompt in prompts]
    return ours, Turn(sum(one.seconds for one in turns), sum(one.tokens for one in turns))


async def _crowd(engine: Engine, prompts: Prompts, delays: Sequence[float], output: int) -> Turn:
    """Send each prompt after its delay; the clock runs from the first one's arrival."""

    async def arrive(prompt: list[int], delay: float) -> int:
        await asyncio.sleep(delay)
        return await _answer(engine, prompt, output)

    begin = time.perf_counter()
    work = (arrive(prompt, delay) for prompt, delay in zip(prompts, delays, strict=True))
    tokens = await asyncio.gather(*work)
    return Turn(time.perf_counter() - begin - min(delays), sum(tokens))


async def _answer(engine: Engine, prompt: list[int], output: int) -> int:
    params = SamplingParams(max_tokens=output, temperature=0.0, ignore_eos=True)
    request = GenerateRequest(request_id="benchmark", params=params, prompt=tuple(prompt))
    async with aclosing(engine.generate(request)) as chunks:
        return sum([len(chunk.token_ids) async for chunk in chunks])


@asynccontextmanager
async def _started(folder: Path, options: LoadOptions) -> AsyncIterator[Engine]:
    model = LocalModel(name="benchmark", path=str(folder), format="safetensors")
    engine = create_engine("torch", model, options)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.close()


@contextmanager
def _peer(folder: Path, threads: int) -> Iterator[Peer]:
    module = "benchmarks.peers.transformers_generate"
    process = subprocess.Popen(
        [sys.executable, "-m", module, str(folder), str(threads)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=thread_settings(threads),
        cwd=ROOT,
    )
    try:
        peer = Peer(process)
        peer.read()
        yield peer
    finally:
        process.kill()
        process.wait()


def _pipe(pipe: IO[str] | None) -> IO[str]:
    if pipe is None:
        raise RuntimeError("the process of generate has no pipe")
    return pipe


def _prompts(rng: random.Random, count: int) -> Prompts:
    letters = SHAPE.vocab_size - len(CONTROLS)
    return [[rng.randrange(letters) for _ in range(PROMPT)] for _ in range(count)]


def _notes(turns: dict[int, list[tuple[Turn, Turn]]], output: int) -> list[str]:
    wanted = {1: SINGLES * output, CONCURRENCY: CONCURRENCY * output}
    made: dict[str, Any] = {
        f"c={count}": sorted({turn.tokens for pair in pairs for turn in pair})
        for count, pairs in turns.items()
        if any(turn.tokens != wanted[count] for pair in pairs for turn in pair)
    }
    return [f"not all tokens asked for were made: {made}"] if made else []
