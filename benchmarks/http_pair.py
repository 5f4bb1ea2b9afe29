"""Our API and another server under the same load, in turns: what all such comparisons share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from statistics import median

import orjson
import uvloop
from msgspec import structs

from benchmarks.servers import RunningServer
from openllm.bench.http_client import HttpClient, RequestError, parse_target
from openllm.bench.report import Comparison, compare, summarise, summarise_side
from openllm.bench.run import Round, Run, Side, find_model, run_bench
from openllm.bench.settings import BenchSettings, Endpoint, LengthRange, RequestRecord
from openllm.bench.workload import Job, jobs

Drive = Callable[[Run], Awaitable[None]]
PROMPT = 20
"""Tokens of a prompt, about; a chat template adds its own."""
REQUESTS = {1: 6, 8: 16, 32: 32}
"""Requests of a round by concurrency: five to fifteen seconds of work on two cores."""
IDLE_CPU = 0.02
"""CPU share above which an idle server disturbs the other one's turn."""


def side(label: str, server: RunningServer, model: str = "") -> Side:
    """A server to measure; without `model` the first that it lists."""
    return Side(label, parse_target(server.url), model)


def compare_at(
    sides: Sequence[Side],
    levels: Sequence[tuple[Endpoint, int]],
    rounds: int,
    output: int,
    ignore_eos: bool = False,
    drive: Drive = run_bench,
) -> list[Run]:
    """Measure two servers at each (endpoint, requests in flight), with prompts never sent before.

    Args:
        sides: Ours, then the other one.
        levels: What to measure, in order.
        rounds: Turns of each server.
        output: Tokens of a reply.
        ignore_eos: Ask for it; the benchmark's model never ends by itself, so few need to.
        drive: Sends the load.
    """
    runs = []
    for number, (endpoint, concurrency) in enumerate(levels):
        settings = BenchSettings(
            endpoint=endpoint,
            concurrency=concurrency,
            requests=REQUESTS[concurrency],
            prompt_tokens=LengthRange(PROMPT, PROMPT),
            output_tokens=LengthRange(output, output),
            ignore_eos=ignore_eos,
            rounds=rounds,
            seed=2 * number,
            timeout=300.0,
        )
        warm = {"requests": concurrency, "output_tokens": LengthRange(16, 16), "rounds": 1}
        measure(structs.replace(settings, **warm, seed=2 * number + 1), sides, drive)
        runs.append(measure(settings, sides, drive))
    return runs


def measure(settings: BenchSettings, sides: Sequence[Side], drive: Drive = run_bench) -> Run:
    """Load the servers in turns, round by round.

    Raises:
        RuntimeError: There is no round in which both gave a reply.
    """
    run = Run(settings, [Side(one.label, one.target, one.model) for one in sides])

    async def work() -> None:
        await drive(run)

    uvloop.run(work())
    compared(run)
    return run


def compared(run: Run) -> Comparison:
    """Return the first server against the second."""
    found = compare(run)
    if found is None or found.output_throughput_ratio is None:
        details = {record.detail for side in run.sides for record in side.records if record.error}
        raise RuntimeError(f"no round of {run_name(run)} could be compared: {sorted(details)}")
    return found


def throughput_ratio(run: Run) -> float:
    """Output tokens per second, first server / second; median over rounds."""
    return compared(run).output_throughput_ratio or 0.0


def ttft_ratio(run: Run) -> float:
    """Median wait for the first token, first server / second; median over rounds."""
    waits = [_ttft_p50s(one) for one in run.sides]
    return float(median(ours / theirs for ours, theirs in zip(*waits, strict=True)))


def figures(run: Run) -> dict[str, object]:
    """What is quoted of a run, with each round's ratio, so that the noise can be seen."""
    found, summaries = compared(run), [summarise_side(one, {}) for one in run.sides]
    streamed = all(summary.ttft_ms for summary in summaries)
    return {
        "output_throughput_ratio": found.output_throughput_ratio,
        "output_throughput_ratios": found.output_throughput_ratios,
        "ttft_p50_ratio": ttft_ratio(run) if streamed else None,
        "output_throughput": {
            one.label: summary.output_throughput
            for one, summary in zip(run.sides, summaries, strict=True)
        },
        "ttft_p50_ms": {
            one.label: summary.ttft_ms.p50
            for one, summary in zip(run.sides, summaries, strict=True)
            if summary.ttft_ms
        },
    }


def run_name(run: Run) -> str:
    return f"{run.settings.endpoint} c={run.settings.concurrency}"


def idle_notes(idle: Mapping[str, float]) -> list[str]:
    """Name the servers that do not rest while the other one works."""
    return [
        f"{name} burns {share:.0%} of a core while idle, which disturbs the other's turn"
        for name, share in idle.items()
        if share > IDLE_CPU
    ]


def run_notes(runs: Sequence[Run]) -> list[str]:
    """Say what makes a comparison doubtful: failures, other lengths, other prompts."""
    notes = []
    for one in runs:
        for server in one.sides:
            records = server.records
            if failed := sum(record.error is not None for record in records):
                notes.append(f"{run_name(one)}: {failed} requests to {server.label} failed")
            wanted = one.settings.output_tokens.low
            if any(record.output_tokens != wanted for record in records if not record.error):
                notes.append(f"{run_name(one)}: {server.label} did not always make {wanted} tokens")
        read = [summarise_side(server, {}).prompt_tokens_mean for server in one.sides]
        if read[0] != read[1]:
            notes.append(f"{run_name(one)}: the servers read prompts of {read} tokens on average")
    return notes


async def run_plain(run: Run) -> None:
    """Drive /v1/completions without streaming, for servers that cannot stream; fills `run`.

    Raises:
        RuntimeError: A server refuses the warm-up.
    """
    clients = [HttpClient(one.target) for one in run.sides]
    for server, client in zip(run.sides, clients, strict=True):
        server.model = await find_model(client, server.model)
        for job in jobs(run.settings, -1, run.fit):
            record = await _ask(client, server.model, job, time.perf_counter(), run.settings)
            if record.error:
                raise RuntimeError(f"{server.label} failed the warm-up: {record.detail}")
            if record.prompt_tokens and len(run.fit.seen) < 2:
                run.fit.learn(len(job.prompt.split()), record.prompt_tokens)
    origin = time.perf_counter()
    for number in range(run.settings.rounds):
        for server, client in zip(run.sides, clients, strict=True):
            await _plain_round(run, server, client, number, origin)


async def _plain_round(
    run: Run, server: Side, client: HttpClient, number: int, origin: float
) -> None:
    work: Iterator[Job] = jobs(run.settings, number, run.fit)
    begin = time.perf_counter()
    one = Round(number, begin - origin)
    server.rounds.append(one)

    async def ask() -> None:
        for job in work:
            one.records.append(await _ask(client, server.model, job, origin, run.settings))

    await asyncio.gather(*(ask() for _ in range(run.settings.concurrency or 1)))
    one.duration = time.perf_counter() - begin


async def _ask(
    client: HttpClient, model: str, job: Job, origin: float, settings: BenchSettings
) -> RequestRecord:
    body = {
        "model": model,
        "prompt": job.prompt,
        "max_tokens": job.output_tokens,
        "temperature": settings.temperature,
    }
    begin = time.perf_counter()
    try:
        sent = client.post("/completions", orjson.dumps(body), _no_stream)
        response = await asyncio.wait_for(sent, settings.timeout)
        if response.status != 200:
            raise RequestError(f"http_{response.status}", response.body[:200].decode("latin-1"))
        reply = orjson.loads(response.body)
        usage, choice = reply["usage"], reply["choices"][0]
    except (RequestError, asyncio.TimeoutError, TimeoutError, LookupError, ValueError) as exc:
        return RequestRecord(
            start=begin - origin,
            latency=time.perf_counter() - begin,
            error="failed",
            detail=f"{type(exc).__name__}: {exc}",
        )
    return RequestRecord(
        start=begin - origin,
        latency=time.perf_counter() - begin,
        prompt_tokens=usage["prompt_tokens"],
        # FastChat's usage misses the last token, so a reply that was cut says best what it holds.
        output_tokens=job.output_tokens
        if choice["finish_reason"] == "length"
        else usage["completion_tokens"],
    )


def _no_stream(piece: bytes, now: float) -> None:
    raise RuntimeError("the server streamed a reply that was not to be streamed")


def _ttft_p50s(server: Side) -> list[float]:
    found = []
    for one in server.rounds:
        wait = summarise(one.records, one.duration, {}).ttft_ms
        if wait is None:
            raise RuntimeError(f"{server.label} sent no text in round {one.number + 1}")
        found.append(wait.p50)
    return found
