"""What processes took, and the end of those that are not our children."""

from __future__ import annotations

import resource
from collections.abc import Iterable

import psutil

from tests.waiting import happens


def processor_seconds() -> float:
    """Return the processor's time that all children took which have ended.

    Unlike the time on the clock it does not grow with what else the machine does.
    """
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def alive_after(processes: Iterable[psutil.Process], seconds: float = 10.0) -> list[psutil.Process]:
    """Return those that still run after so many seconds, at once if none does.

    A process that has ended counts as ended, although whoever adopted it has not noticed yet.
    """
    waited = list(processes)
    happens(lambda: not any(map(_runs, waited)), seconds)
    return [each for each in waited if _runs(each)]


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
