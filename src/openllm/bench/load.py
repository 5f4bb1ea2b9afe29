"""The load loops: a fixed number in flight, or arrivals at a rate."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import orjson
from msgspec import Struct

from openllm.bench.http_client import HttpClient, RequestError
from openllm.bench.settings import BenchSettings, RequestRecord
from openllm.bench.stream import ReplyTimer, error_message
from openllm.bench.workload import Job, arrivals

_PAUSE_AFTER_ERROR = 0.1
"""Seconds a closed loop waits after a failure, lest it spins on a server that is gone."""

_ROUTES = {"chat": "/chat/completions", "completions": "/completions"}


class Sender(Struct, frozen=True):
    """Sends the jobs of one run to one model of one server.

    `origin` is the `time.perf_counter()` from which records count.
    """

    client: HttpClient
    model: str
    settings: BenchSettings
    origin: float

    async def send(self, job: Job, due: float | None = None) -> RequestRecord:
        """Send one request and follow its reply; a failure is a record as well."""
        body = request_body(job, self.model, self.settings)
        start = time.perf_counter()
        timer = ReplyTimer(start)
        try:
            await asyncio.wait_for(self._exchange(body, timer), self.settings.timeout)
        except RequestError as exc:
            timer.fail(exc.kind, exc.message, time.perf_counter())
        except (asyncio.TimeoutError, TimeoutError):
            limit = f"no complete reply in {self.settings.timeout:g} s"
            timer.fail("timeout", limit, time.perf_counter())
        return timer.record(self.origin, 0.0 if due is None else start - due)

    async def _exchange(self, body: bytes, timer: ReplyTimer) -> None:
        response = await self.client.post(_ROUTES[self.settings.endpoint], body, timer.feed)
        if response.status != 200:
            detail = error_message(_parsed(response.body))
            raise RequestError(f"http_{response.status}", f"status {response.status}: {detail}")
        if response.content_type != "text/event-stream":
            kind = response.content_type or "nothing"
            raise RequestError("protocol", f"asked for an event stream, the server sent {kind}")


def request_body(job: Job, model: str, settings: BenchSettings) -> bytes:
    """The JSON of one streamed request; optional fields are sent only if asked for."""
    body: dict[str, Any] = {
        "model": model,
        "max_tokens": job.output_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if settings.endpoint == "chat":
        body["messages"] = [{"role": "user", "content": job.prompt}]
    else:
        body["prompt"] = job.prompt
    if settings.temperature is not None:
        body["temperature"] = settings.temperature
    if settings.ignore_eos:
        body["ignore_eos"] = True
    return orjson.dumps(body)


async def run_load(
    sender: Sender,
    jobs: Iterator[Job],
    keep: Callable[[RequestRecord], None],
    round_number: int,
) -> None:
    """Send the jobs as the settings say; hand each record to `keep` as its reply ends."""
    settings = sender.settings
    end = time.perf_counter() + (settings.duration or float("inf"))
    if settings.rate is None:
        await _closed_loop(sender, jobs, keep, end)
    else:
        await _open_loop(sender, jobs, keep, end, arrivals(settings, settings.rate, round_number))


async def _closed_loop(
    sender: Sender, jobs: Iterator[Job], keep: Callable[[RequestRecord], None], end: float
) -> None:
    async def work() -> None:
        for job in jobs:
            if time.perf_counter() >= end:
                return
            record = await sender.send(job)
            keep(record)
            if record.error:
                await asyncio.sleep(_PAUSE_AFTER_ERROR)

    await asyncio.gather(*(work() for _ in range(sender.settings.concurrency or 1)))


async def _open_loop(
    sender: Sender,
    jobs: Iterator[Job],
    keep: Callable[[RequestRecord], None],
    end: float,
    due_after: Iterator[float],
) -> None:
    async def work(job: Job, due: float) -> None:
        keep(await sender.send(job, due))

    start = time.perf_counter()
    tasks: list[asyncio.Task[None]] = []
    try:
        for job, after in zip(jobs, due_after, strict=False):
            due = start + after
            if due >= end:
                break
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            tasks.append(asyncio.create_task(work(job, due)))
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


def _parsed(body: bytes) -> object:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return body.decode("utf-8", "replace") or "no reason given"
