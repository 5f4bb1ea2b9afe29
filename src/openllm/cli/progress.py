"""How far downloads are, on standard error: bars on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import sys
import threading
from contextlib import suppress
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, TextIO

from openllm.sizes import size_text

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    from openllm.models.pull import Progress

LINE_SHARE = 0.1
"""A line is written when this share of a model has come since the last ..."""
LINE_SECONDS = 10.0
"""... or when none was written for this long."""
SMALL_BYTES = 16 << 20
"""Of a model below this only the end is written, unless it takes long."""

_DOING = {
    "listing": "asking what there is",
    "waiting": "waiting for the process that downloads it",
    "verifying": "checking",
}


class DownloadDisplay:
    """An `on_progress` that draws, whatever thread calls it; leaving its block ends the drawing.

    Nothing is drawn before the first call, nor once all that began is done, so it may stay open
    while a server runs.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        """`stream`: where to draw, standard error if not given."""
        stream = stream or sys.stderr
        self._lock = threading.Lock()
        self._display: _Display = _Terminal(stream) if stream.isatty() else _Lines(stream)

    def __call__(self, progress: Progress) -> None:
        # A download does not fail because of what cannot be drawn, as on a full disk.
        with self._lock, suppress(OSError):
            self._display.show(progress)

    def __enter__(self) -> DownloadDisplay:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._lock:
            self._display.close()


class _Display(Protocol):
    def show(self, progress: Progress) -> None: ...

    def close(self) -> None: ...


class _Terminal:
    """One bar for each model that is being downloaded; what is done leaves the screen."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._bars: Bars | None = None
        self._tasks: dict[str, TaskID] = {}
        self._sized: set[str] = set()
        self._began: dict[str, float] = {}

    def show(self, progress: Progress) -> None:
        self._began.setdefault(progress.source, monotonic())
        if progress.phase == "done":
            self._finish(progress)
            return
        total = progress.total or None
        bars = self._bars = self._bars or _started_bars(self._stream)
        task = self._tasks.get(progress.source)
        if task is not None and progress.total and progress.source not in self._sized:
            bars.remove_task(task)  # What a former run left is there, but did not come fast.
            task = None
        if task is None:
            task = bars.add_task(_title(progress), total=total, completed=progress.done)
            self._tasks[progress.source] = task
        if total:
            self._sized.add(progress.source)
        bars.update(task, description=_title(progress), total=total, completed=progress.done)

    def close(self) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None
            self._tasks.clear()

    def _finish(self, progress: Progress) -> None:
        task = self._tasks.pop(progress.source, None)
        if task is not None and self._bars is not None:
            self._bars.remove_task(task)
        if not self._tasks:
            self.close()
        line = _summary(progress, self._began.pop(progress.source))
        if self._bars is not None:
            self._bars.console.print(line, markup=False, highlight=False)
        else:
            print(line, file=self._stream, flush=True)


def _started_bars(stream: TextIO) -> Bars:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    bars = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(file=stream),
        expand=True,
        transient=True,
        refresh_per_second=5,
        redirect_stdout=False,
        redirect_stderr=False,
    )
    bars.start()
    return bars


class _Lines:
    """Plain lines, few enough for a log."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._models: dict[str, _Line] = {}

    def show(self, progress: Progress) -> None:
        line = self._models.setdefault(progress.source, _Line())
        if progress.phase == "done":
            self._write(_summary(progress, self._models.pop(progress.source).began))
        elif line.is_due(progress):
            self._write(f"{_title(progress)}{line.state(progress)}")

    def close(self) -> None:
        self._models.clear()

    def _write(self, line: str) -> None:
        print(line, file=self._stream, flush=True)


class _Line:
    """What was last written of one model."""

    def __init__(self) -> None:
        self.began = monotonic()
        self._phase = ""
        self._since = self._written = self.began
        self._first = self._done = 0

    def is_due(self, progress: Progress) -> bool:
        now = monotonic()
        if progress.phase != self._phase:
            self._phase, self._since, self._written = progress.phase, now, now
            self._first = self._done = progress.done
            return progress.phase != "downloading" or progress.total >= SMALL_BYTES
        step = LINE_SHARE * max(progress.total, SMALL_BYTES)
        far = bool(progress.total) and progress.done - self._done >= step
        if far or now - self._written >= LINE_SECONDS:
            self._written, self._done = now, progress.done
            return True
        return False

    def state(self, progress: Progress) -> str:
        """Return how much there is, how fast it comes and when it will be over."""
        if not progress.total:
            return f": {size_text(progress.done)}" if progress.done else ""
        share = 100 * progress.done // progress.total
        text = f": {share} % of {size_text(progress.total)}"
        rate = (progress.done - self._first) / max(monotonic() - self._since, 0.001)
        if rate <= 0:
            return text
        left = written_time((progress.total - progress.done) / rate)
        return f"{text}, {size_text(int(rate))}/s, {left} left"


def written_time(seconds: float) -> str:
    """Write a duration for people."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def printable(text: str) -> str:
    """Return `text` without what could move a terminal's cursor."""
    return "".join(each for each in text if each.isprintable())


def _title(progress: Progress) -> str:
    doing = _DOING.get(progress.phase, progress.file)
    return printable(f"{progress.source}, {doing}" if doing else progress.source)


def _summary(progress: Progress, began: float) -> str:
    took = written_time(monotonic() - began)
    return f"{printable(progress.source)}: {size_text(progress.total)}, {took}"
