"""Which processes run models, what processes took, and the end of those that are no children."""

from __future__ import annotations

import resource
from collections.abc import Iterable

import psutil

from tests.waiting import SECONDS, happens


def processor_seconds() -> float:
    """Return the processor's time that all children took which have ended.

    Unlike the time on the clock it does not grow with what else the machine does.
    """
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def runners(server: int) -> list[psutil.Process]:
    """Return the processes of the models that a server runs; `server` is its process id.

    They are known by what they are: Python and its libraries ask other programs about the machine,
    so that a process has children for a moment that nobody expects.
    """
    children = psutil.Process(server).children()
    return [each for each in children if "openllm.runner.worker" in command_of(each)]


def alive_after(
    processes: Iterable[psutil.Process], seconds: float = SECONDS
) -> list[psutil.Process]:
    """Return those that still run after so many seconds, at once if none does.

    A process that has ended counts as ended, although whoever adopted it has not noticed yet.
    """
    waited = list(processes)
    happens(lambda: not any(map(_runs, waited)), seconds)
    return [each for each in waited if _runs(each)]


def command_of(process: psutil.Process) -> list[str]:
    """Return the program and arguments of a process; nothing if it is gone or about to go."""
    try:
        words: list[str] = process.cmdline()
    except psutil.NoSuchProcess:  # A zombie is none, either.
        return []
    return words


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
