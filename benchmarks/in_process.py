"""The torch engine called in process, and the same work done by transformers in another process."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from pathlib import Path
from typing import IO

from msgspec import Struct

from benchmarks.make_model import CONTROLS, SHAPE
from benchmarks.servers import ROOT
from openllm.config.model import LoadOptions
from openllm.engines import create_engine
from openllm.engines.base import Engine
from openllm.types import GenerateRequest, LocalModel, SamplingParams

PROMPT = 20

Prompts = list[list[int]]


class Turn(Struct):
    """What one side did in one round; `tokens` were counted, not taken from what was asked."""

    seconds: float
    tokens: int

    @property
    def rate(self) -> float:
        return self.tokens / self.seconds


class Peer:
    """A script of `benchmarks.peers` that takes prompts by the line."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def generate(self, prompts: Prompts, tokens: int) -> Turn:
        """Make `tokens` for every prompt, all of them given at once."""
        pipe = _pipe(self._process.stdin)
        pipe.write(json.dumps({"prompts": prompts, "tokens": tokens}) + "\n")
        pipe.flush()
        return Turn(**json.loads(self.read()))

    def read(self) -> str:
        """Return its next line; raises RuntimeError if it has ended."""
        line = _pipe(self._process.stdout).readline()
        if not line:
            raise RuntimeError(f"the peer ended with status {self._process.wait()}")
        return line


@contextmanager
def peer_process(module: str, *arguments: str, env: Mapping[str, str]) -> Iterator[Peer]:
    """Run a module of `benchmarks.peers`; yields when it says that it is ready."""
    process = subprocess.Popen(
        [sys.executable, "-m", f"benchmarks.peers.{module}", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=dict(env),
        cwd=ROOT,
    )
    try:
        peer = Peer(process)
        peer.read()
        yield peer
    finally:
        process.kill()
        process.wait()


@asynccontextmanager
async def torch_engine(folder: Path, options: LoadOptions) -> AsyncIterator[Engine]:
    """Load a model on the torch engine."""
    model = LocalModel(name="benchmark", path=str(folder), format="safetensors")
    engine = create_engine("torch", model, options)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.close()


async def crowd(engine: Engine, prompts: Prompts, delays: Sequence[float], output: int) -> Turn:
    """Send each prompt after its delay; the clock runs from the first one's arrival."""

    async def arrive(prompt: list[int], delay: float) -> int:
        await asyncio.sleep(delay)
        return await answer(engine, prompt, output)

    begin = time.perf_counter()
    work = (arrive(prompt, delay) for prompt, delay in zip(prompts, delays, strict=True))
    tokens = await asyncio.gather(*work)
    return Turn(time.perf_counter() - begin - min(delays), sum(tokens))


async def answer(engine: Engine, prompt: list[int], output: int) -> int:
    """Return how many tokens the engine made."""
    params = SamplingParams(max_tokens=output, temperature=0.0, ignore_eos=True)
    request = GenerateRequest(request_id="benchmark", params=params, prompt=tuple(prompt))
    async with aclosing(engine.generate(request)) as chunks:
        return sum([len(chunk.token_ids) async for chunk in chunks])


def random_prompts(rng: random.Random, count: int) -> Prompts:
    """Return prompts of `PROMPT` tokens, none of them a control token."""
    texts = SHAPE.vocab_size - len(CONTROLS)
    return [[rng.randrange(texts) for _ in range(PROMPT)] for _ in range(count)]


def _pipe(pipe: IO[str] | None) -> IO[str]:
    if pipe is None:
        raise RuntimeError("the peer has no pipe")
    return pipe
