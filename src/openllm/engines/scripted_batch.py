"""The scripted engine's loop: which sequences run, when each makes its next token, what goes wrong.

All running sequences make one token in an engine step, as in an engine that batches. Time is the
event loop's, so a loop with a clock of its own makes tests of timing exact.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections import OrderedDict, deque
from math import inf

from openllm.engines.chunk_queue import ChunkQueue
from openllm.engines.scripted_rules import Fault
from openllm.engines.scripted_sequence import ScriptedSequence
from openllm.errors import EngineError, OpenLLMError, OutOfMemoryError

LATENESS = 0.05  # Seconds by which a step may be late and the next still come on time.
LAST_WORDS = 0.05  # Seconds a dying process has to send the tokens made before its death.


class Job:
    """One request: its sequences that have not ended, and the chunks that wait for its reader."""

    __slots__ = ("chunks", "lines")

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.chunks = ChunkQueue()


class Line:
    """One sequence in the batch or in the queue before it.

    Attributes:
        prefill: Seconds it takes to read the prompt.
        ready_at: Time of the loop from which on it makes tokens.
    """

    __slots__ = ("faults", "job", "prefill", "ready_at", "sequence")

    def __init__(
        self, job: Job, sequence: ScriptedSequence, faults: tuple[Fault, ...], prefill: float
    ) -> None:
        self.job = job
        self.sequence = sequence
        self.faults = deque(sorted(faults, key=lambda fault: fault.after_tokens))
        self.prefill = prefill
        self.ready_at = 0.0


class Batch:
    """Sequences that run at once, and in the order of arrival those that wait for a place."""

    def __init__(self, places: int, steps_per_second: float, unhealthy_after: float) -> None:
        self._places = places
        self._period = 1.0 / steps_per_second if steps_per_second else 0.0
        self._unhealthy_after = unhealthy_after
        self.running: dict[Line, None] = {}
        self.waiting: OrderedDict[Line, None] = OrderedDict()
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None
        self._wake: asyncio.Future[None] | None = None
        self._next_step = 0.0
        self._stalled_since = 0.0
        self._stalled_until = 0.0

    def add(self, job: Job) -> None:
        self.waiting.update(dict.fromkeys(job.lines))
        self._admit()

    def remove(self, job: Job) -> None:
        """Free the places of a request, whether it runs, waits or has ended."""
        for line in job.lines:
            line.ready_at = inf  # A step that is under way must not let it make another token.
            self.running.pop(line, None)
            self.waiting.pop(line, None)
        self._admit()

    def stalled(self) -> bool:
        """Whether no token was made for too long."""
        now = self._loop.time()
        return now < self._stalled_until and now - self._stalled_since > self._unhealthy_after

    async def close(self, error: OpenLLMError) -> None:
        """Stop, and fail every request with `error`."""
        self._fail_all(error)
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def _admit(self) -> None:
        now = self._loop.time()
        while self.waiting and len(self.running) < self._places:
            line, _ = self.waiting.popitem(last=False)
            line.ready_at = now + line.prefill
            self.running[line] = None
        if self.running and self._task is None:
            self._next_step = now
            self._task = self._loop.create_task(self._run())
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def _run(self) -> None:
        try:
            while self.running:
                await self._turn()
        except Exception as error:
            self._fail_all(EngineError(f"the scripted engine failed: {error}"))
            raise
        finally:
            self._task = None

    async def _turn(self) -> None:
        now = self._loop.time()
        due = max(self._next_step, self._stalled_until)
        if now < due:
            await self._sleep_until(due)
        elif (soonest := self._step(now)) > now:
            await self._sleep_until(soonest)
        else:
            self._next_step = (due if now - due < LATENESS else now) + self._period
            await asyncio.sleep(0)  # Let the readers of all streams have what was made.

    def _step(self, now: float) -> float:
        """Let every sequence that is ready make a token; return when one is ready next."""
        soonest = inf
        for line in tuple(self.running):
            if line.ready_at > now:
                soonest = min(soonest, line.ready_at)
                continue
            soonest = now
            if line.faults and line.faults[0].after_tokens <= line.sequence.made:
                self._fault(line, line.faults.popleft(), now)
                continue
            chunk = line.sequence.step()
            if chunk is not None:
                line.job.chunks.put(chunk)
                if chunk.finish_reason is not None:
                    self._finish(line)
        return soonest

    def _finish(self, line: Line) -> None:
        line.job.lines.remove(line)
        del self.running[line]
        self._admit()

    def _fault(self, line: Line, fault: Fault, now: float) -> None:
        seconds = inf if fault.seconds is None else fault.seconds
        if fault.kind == "pause":
            line.ready_at = now + seconds
        elif fault.kind == "stall":
            self._stalled_since, self._stalled_until = now, now + seconds
        elif fault.kind in ("error", "out_of_memory"):
            line.job.chunks.fail(failure(fault))
            self.remove(line.job)
        else:
            line.ready_at = inf
            self._loop.call_later(LAST_WORDS, die, fault)

    async def _sleep_until(self, when: float) -> None:
        """Sleep until a time of the loop, or until the batch changes."""
        self._wake = self._loop.create_future()
        timer = None if when == inf else self._loop.call_at(when, _set, self._wake)
        try:
            await self._wake
        finally:
            self._wake = None
            if timer is not None:
                timer.cancel()

    def _fail_all(self, error: OpenLLMError) -> None:
        jobs = {line.job for line in (*self.running, *self.waiting)}
        self.running.clear()
        self.waiting.clear()
        for job in jobs:
            job.chunks.fail(error)


def failure(fault: Fault) -> OpenLLMError:
    """Return the error that a fault of kind "error" or "out_of_memory" raises."""
    if fault.kind == "out_of_memory":
        return OutOfMemoryError(fault.message or "out of memory, as the script asks")
    return EngineError(
        fault.message or f"failed after {fault.after_tokens} tokens, as the script asks"
    )


def die(fault: Fault) -> None:
    """End this process at once, in the way the fault names."""
    if fault.kind == "exit":
        os._exit(0)
    if fault.kind == "abort":
        os.abort()
    os.kill(os.getpid(), signal.SIGKILL)


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
