"""Progress of downloads as events for programs, and how often one is worth sending.

Serves the API's stream and `openllm pull --json` alike.
"""

from __future__ import annotations

import threading
from time import monotonic
from typing import TYPE_CHECKING, Any

from openllm.models.ref import shown_source

if TYPE_CHECKING:
    from openllm.models.pull import Progress
    from openllm.types import LocalModel

INTERVAL = 0.5
"""Seconds between two events of one model, unless something else begins."""


class Pace:
    """Lets through what is new, and of a growing download one report in `INTERVAL` seconds."""

    def __init__(self, interval: float = INTERVAL) -> None:
        self._interval = interval
        self._lock = threading.Lock()
        self._last: dict[str, tuple[str, float]] = {}

    def admits(self, progress: Progress) -> bool:
        """Whether to send this one; may be called by any thread."""
        key, now = progress.source, monotonic()
        whole = 0 < progress.total <= progress.done
        with self._lock:
            phase, sent = self._last.get(key, ("", 0.0))
            if phase == progress.phase and not whole and now - sent < self._interval:
                return False
            self._last[key] = (progress.phase, now)
            return True


def progress_event(progress: Progress) -> dict[str, Any]:
    """Return the event for a step on the way; `done` and `total` are bytes of the model."""
    return {
        "phase": progress.phase,
        "source": progress.source,
        "file": progress.file,
        "done": progress.done,
        "total": progress.total,
    }


def stored_event(asked: str, model: LocalModel) -> dict[str, Any]:
    """Return the last event: under which tag the model that was asked for is in the store.

    The tag is "" for a model that needs no store, such as the bundled one.
    """
    return {
        "model": shown_source(asked),
        "tag": model.tag,
        "source": shown_source(model.source),
        "revision": model.revision,
    }
