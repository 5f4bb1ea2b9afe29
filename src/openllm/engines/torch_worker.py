"""The thread that computes: it turns the scheduler, and runs other work between two turns.

Everything of PyTorch happens on this thread, inside `inference_mode`; the event loop only ever sees
what is finished, once a turn.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TypeVar

import torch

from openllm.engines.torch_errors import as_ours
from openllm.engines.torch_scheduler import Event, Scheduler
from openllm.engines.torch_sequence import Job
from openllm.errors import EngineUnavailableError, OpenLLMError

logger = logging.getLogger("openllm.engines.torch")
Result = TypeVar("Result")

STALL_SECONDS = 120.0
"""A turn that takes longer than this is taken for a hang."""


class Worker:
    """Owns a scheduler's thread; its methods are called on the event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._condition = threading.Condition()
        self._jobs: deque[Job] = deque()
        self._tasks: deque[Callable[[], None]] = deque()
        self._closing = False
        self._turn_began: float | None = None
        self.scheduler: Scheduler | None = None
        self._thread = threading.Thread(target=self._run, name="openllm-torch", daemon=True)
        self._thread.start()

    def add(self, job: Job) -> None:
        """Let the scheduler have a job at the next turn.

        Raises:
            EngineUnavailableError: The model was stopped.
        """
        with self._condition:
            self._check_open()
            self._jobs.append(job)
            self._condition.notify()

    def cancel(self, job: Job) -> None:
        """Let the worker drop a job before its next turn."""
        job.cancelled = True
        with self._condition:
            self._condition.notify()

    async def call(self, work: Callable[[], Result]) -> Result:
        """Run `work` on the thread between two turns, unless the caller stops waiting before.

        Raises:
            EngineUnavailableError: The model was stopped.
        """
        future: asyncio.Future[Result] = self._loop.create_future()
        with self._condition:
            self._check_open()
            self._tasks.append(lambda: self._answer(future, work))
            self._condition.notify()
        return await future

    def _check_open(self) -> None:
        if self._closing:
            raise stopped()

    @property
    def healthy(self) -> bool:
        began = self._turn_began
        alive = self._thread.is_alive() and not self._closing
        return alive and (began is None or time.monotonic() - began < STALL_SECONDS)

    async def close(self) -> None:
        with self._condition:
            self._closing = True
            self._condition.notify()
        await asyncio.to_thread(self._thread.join, 30.0)

    def _run(self) -> None:
        try:
            with torch.inference_mode():
                while self._wait():
                    self._turn_began = time.monotonic()
                    self._do_tasks()
                    self._turn()
                    self._turn_began = None
        finally:  # Nobody waits for a thread that is gone, whatever ended it.
            self._end()

    def _wait(self) -> bool:
        with self._condition:
            while not self._closing and not self._tasks and not self._jobs and self._idle:
                self._condition.wait()
            return not self._closing

    @property
    def _idle(self) -> bool:
        return self.scheduler is None or self.scheduler.idle

    def _do_tasks(self) -> None:
        for _ in range(len(self._tasks)):  # Those that come meanwhile wait for the next turn.
            self._tasks.popleft()()

    def _turn(self) -> None:
        if self.scheduler is None:
            return
        while self._jobs:
            self.scheduler.add(self._jobs.popleft())
        events = self.scheduler.turn()
        if events:
            self._tell(_deliver, events)

    def _end(self) -> None:
        with self._condition:
            self._closing = True
        error = stopped()
        events: list[Event] = [(job, error) for job in self._jobs]
        if self.scheduler is not None:
            events += self.scheduler.fail_all(error)
        self.scheduler = None
        self._do_tasks()
        self._tell(_deliver, events)

    def _answer(self, future: asyncio.Future[Result], work: Callable[[], Result]) -> None:
        if future.cancelled():
            return
        try:
            self._check_open()
            result = work()
        except BaseException as error:  # A model's own code may exit, which ends no thread here.
            ours = error if isinstance(error, OpenLLMError) else as_ours(error)
            ours.__cause__ = error if ours is not error else None
            self._tell(_fail, future, ours)
        else:
            self._tell(_resolve, future, result)

    def _tell(self, call: Callable[..., None], *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError:  # The loop was closed first; nobody waits any more.
            logger.debug("the event loop is gone")


def stopped() -> EngineUnavailableError:
    """Return the error of whoever still waits when the thread ends."""
    return EngineUnavailableError("the model was stopped")


def _deliver(events: list[Event]) -> None:
    for job, event in events:
        if isinstance(event, OpenLLMError):
            job.chunks.fail(event)
        else:
            job.chunks.put(event)


def _fail(future: asyncio.Future[object], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)


def _resolve(future: asyncio.Future[object], result: object) -> None:
    if not future.done():
        future.set_result(result)
