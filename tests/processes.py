"""Waiting for the end of processes that are not our children."""

from __future__ import annotations

import time
from collections.abc import Iterable

import psutil


def alive_after(processes: Iterable[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Return those that still run after so many seconds, at once if none does.

    A process that has ended counts as ended, although whoever adopted it has not noticed yet.
    """
    deadline = time.monotonic() + seconds
    alive = [each for each in processes if _runs(each)]
    while alive and time.monotonic() < deadline:
        time.sleep(0.02)
        alive = [each for each in alive if _runs(each)]
    return alive


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
