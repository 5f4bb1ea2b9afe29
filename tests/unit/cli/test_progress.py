"""Progress on standard error: bars on a terminal, few lines elsewhere."""

from __future__ import annotations

import errno
import io
import os
import re
import threading
import time
from collections.abc import Callable
from functools import partial

import pytest

from openllm.cli import progress as module
from openllm.cli.progress import DownloadDisplay, written_time
from openllm.models.pull import Progress

GIB = 1 << 30


def progress_of(
    phase: str, source: str = "org/name", file: str = "", done: int = 0, total: int = 0
) -> Progress:
    """Return what a download tells."""
    return Progress(phase, source, file, done, total)


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


class FullDisk(io.StringIO):
    def write(self, _: str) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.reliability("F-07")
def test_progress_that_cannot_be_shown_ends_no_download() -> None:
    with DownloadDisplay(FullDisk()) as display:
        for done in (0, GIB):
            display(progress_of("downloading", done=done, total=GIB))
        display(progress_of("done", done=GIB, total=GIB))


def ends(threads: int) -> bool:
    """Whether no more than `threads` go on; rich does not wait for the one that draws."""
    return within(30, lambda: threading.active_count() <= threads)


def within(seconds: float, holds: Callable[[], bool]) -> bool:
    """Wait until something holds; False if it does not by then."""
    deadline = time.monotonic() + seconds
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.01)
    return holds()


def lines(*steps: Progress) -> list[str]:
    stream = io.StringIO()
    with DownloadDisplay(stream) as display:
        for step in steps:
            display(step)
    return stream.getvalue().splitlines()


def test_a_log_gets_a_line_for_each_tenth() -> None:
    steps = [progress_of("downloading", file="a.gguf", done=part * GIB // 500, total=GIB)
             for part in range(501)]  # fmt: skip
    written = lines(
        progress_of("listing"),
        *steps,
        progress_of("verifying", done=GIB, total=GIB),
        progress_of("done", done=GIB, total=GIB),
    )
    assert written[0] == "org/name, asking what there is"
    shares = [line for line in written if "% of 1.0 GiB" in line]
    assert 10 <= len(shares) <= 13
    assert any("B/s" in line and "left" in line for line in shares)
    assert "checking" in written[-2]
    assert written[-1].startswith("org/name: 1.0 GiB, 0 s")


def test_a_small_model_has_only_its_end() -> None:
    steps = [
        progress_of("downloading", file=f"{each}.json", done=each, total=1000) for each in range(50)
    ]
    assert lines(*steps, progress_of("done", done=1000, total=1000)) == ["org/name: 1.0 KiB, 0 s"]


def test_of_an_unknown_whole_a_line_every_ten_seconds_says_what_came(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seconds = iter(range(0, 1000, 4))
    monkeypatch.setattr(module, "monotonic", lambda: float(next(seconds)))
    found = lines(*(progress_of("downloading", done=step * GIB) for step in range(11)))
    assert 1 <= len(found) <= 5
    assert all("GiB" in line and "%" not in line for line in found)


def test_what_is_slow_has_a_line_every_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(module, "monotonic", lambda: now[0])
    stream = io.StringIO()
    display = DownloadDisplay(stream)
    for second in range(41):
        now[0] = float(second)
        display(progress_of("downloading", file="a", done=second, total=100))
    assert stream.getvalue().splitlines() == [
        "org/name, a: 10 % of 100 B, 1 B/s, 1 min 30 s left",
        "org/name, a: 20 % of 100 B, 1 B/s, 1 min 20 s left",
        "org/name, a: 30 % of 100 B, 1 B/s, 1 min 10 s left",
        "org/name, a: 40 % of 100 B, 1 B/s, 1 min 0 s left",
    ]


def test_bytes_of_a_former_run_do_not_count_as_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(module, "monotonic", lambda: now[0])
    stream = io.StringIO()
    display = DownloadDisplay(stream)
    for second in (0.0, 10.0):
        now[0] = second
        done = GIB // 2 + int(second) * 1024
        display(progress_of("downloading", file="a", done=done, total=GIB))
    assert "1.0 KiB/s" in stream.getvalue().splitlines()[-1]


def test_a_terminal_shows_bars_and_is_left_alone_when_all_is_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    screen = Screen()

    def shows(text: str) -> bool:
        return text in screen.getvalue()

    before = threading.active_count()
    display = DownloadDisplay(screen)
    display(progress_of("listing"))
    for name in ("a.gguf", "b.gguf"):
        display(progress_of("downloading", file=name, done=0, total=GIB))
        display(progress_of("downloading", file=name, done=GIB // 2, total=GIB))
        assert within(30, partial(shows, f"org/name, {name}"))
    assert threading.active_count() > before
    display(progress_of("done", done=GIB, total=GIB))
    # Nothing draws any more, so a server may go on with this terminal.
    assert ends(before)
    shown = screen.getvalue()
    assert "org/name: 1.0 GiB, " in shown
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h")  # The cursor is back.


def test_an_error_gives_the_terminal_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    screen = Screen()
    before = threading.active_count()

    def interrupted() -> None:
        with DownloadDisplay(screen) as display:
            display(progress_of("downloading", file="a", done=1, total=GIB))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert ends(before)
    assert screen.getvalue().count("\x1b[?25l") == screen.getvalue().count("\x1b[?25h") == 1


@pytest.mark.reliability("S-28")
def test_hostile_names_do_not_move_the_cursor() -> None:
    steps = [
        progress_of(
            "downloading", "org/\x1b[2Jname", "a\r\x1b]0;x\x07[red].gguf", part * GIB, 4 * GIB
        )
        for part in range(4)
    ]
    for stream in (io.StringIO(), Screen()):
        with DownloadDisplay(stream) as display:
            for step in steps:
                display(step)
        assert "\x1b[2J" not in stream.getvalue()
        assert "\x1b]0" not in stream.getvalue()


def test_several_threads_may_report_at_once() -> None:
    stream = io.StringIO()
    display = DownloadDisplay(stream)

    def report(name: str) -> None:
        for done in range(500):
            display(progress_of("downloading", file=name, done=done, total=500))

    threads = [threading.Thread(target=report, args=(str(each),)) for each in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    display(progress_of("done", done=500, total=500))
    assert re.fullmatch(r"org/name: 500 B, \d s\n", stream.getvalue())


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (61, "1 min 1 s"), (7260, "2 h 1 min")]
)
def test_times_are_written_for_people(seconds: float, text: str) -> None:
    assert written_time(seconds) == text
