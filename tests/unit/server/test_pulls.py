"""Downloads that several clients follow."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import pytest

from openllm.errors import ConfigurationError, OverloadedError
from openllm.models.pull import Progress
from openllm.server.pull_events import Pace
from openllm.server.pulls import MAX_PULLS, Pull, Pulls
from openllm.types import LocalModel
from tests.waiting import until

pytestmark = pytest.mark.anyio

MODEL = LocalModel(name="m", path="/m.gguf", format="gguf", tag="llamacpp-m:1")


def progress_of(
    phase: str = "downloading",
    source: str = "org/name",
    file: str = "a",
    done: int = 0,
    total: int = 100,
) -> Progress:
    """Return what a download tells."""
    return Progress(phase, source, file, done, total)


class Download:
    """A fetch that the test drives."""

    def __init__(self, error: Exception | None = None) -> None:
        self.calls = 0
        self.error = error
        self.report: Callable[[Any], None] | None = None
        self.began = threading.Event()
        self.finish = threading.Event()
        self.cancelled: threading.Event | None = None

    def __call__(self, report: Callable[[Any], None], cancelled: threading.Event) -> LocalModel:
        self.calls += 1
        self.report, self.cancelled = report, cancelled
        report(progress_of())
        self.began.set()
        while not self.finish.wait(0.01):
            if cancelled.is_set():
                raise RuntimeError("cancelled")
        if self.error is not None:
            raise self.error
        report(progress_of(done=100))
        return MODEL


async def follow(pull: Pull) -> tuple[list[Any], LocalModel]:
    async with aclosing(pull.follow()) as steps:
        seen = [step async for step in steps]
    return seen, pull.result()


async def leave_after_one(pull: Pull) -> None:
    async with aclosing(pull.follow()) as steps:
        async for _ in steps:
            break


@pytest.mark.reliability("F-09")
async def test_many_clients_share_one_download() -> None:
    pulls, download = Pulls(), Download()
    followers = [asyncio.create_task(follow(pulls.join("k", download))) for _ in range(8)]
    await until(download.began.is_set)
    await asyncio.sleep(0.05)
    late = asyncio.create_task(follow(pulls.join("k", download)))
    await asyncio.sleep(0.05)
    download.finish.set()
    for seen, model in await asyncio.gather(*followers, late):
        assert seen[0] == progress_of()
        assert seen[-1] == progress_of(done=100)
        assert model == MODEL
    assert download.calls == 1
    # It is over: who asks now begins anew.
    await follow(pulls.join("k", download))
    assert download.calls == 2


async def test_who_leaves_does_not_end_what_others_wait_for() -> None:
    pulls, download = Pulls(), Download()
    staying = asyncio.create_task(follow(pulls.join("k", download)))
    leaving = [leave_after_one(pulls.join("k", download)) for _ in range(3)]
    await asyncio.gather(*leaving)
    assert download.cancelled is not None
    assert not download.cancelled.is_set()
    download.finish.set()
    assert (await staying)[1] == MODEL


async def test_when_the_last_leaves_the_download_ends_and_another_may_begin() -> None:
    pulls, download = Pulls(), Download()
    await leave_after_one(pulls.join("k", download))
    assert download.cancelled is not None
    assert download.cancelled.is_set()
    again = Download()
    again.finish.set()
    _, model = await follow(pulls.join("k", again))
    assert model == MODEL
    assert again.calls == 1


async def test_everybody_hears_of_the_error() -> None:
    pulls, download = Pulls(), Download(ConfigurationError("the hub does not know it"))
    followers = [asyncio.create_task(follow(pulls.join("k", download))) for _ in range(3)]
    await until(download.began.is_set)
    download.finish.set()
    ends = await asyncio.gather(*followers, return_exceptions=True)
    assert [str(end) for end in ends] == ["the hub does not know it"] * 3


async def test_too_many_at_once_are_refused() -> None:
    pulls, download = Pulls(), Download()
    tasks = [asyncio.create_task(follow(pulls.join(each, download))) for each in range(MAX_PULLS)]
    with pytest.raises(OverloadedError, match="are being downloaded; try again"):
        pulls.join("one more", download)
    pulls.join(0, download)  # Following another's is always possible.
    download.finish.set()
    await asyncio.gather(*tasks)


async def test_a_slow_client_is_told_the_newest_only(monkeypatch: pytest.MonkeyPatch) -> None:
    pulls, download = Pulls(), Download()
    pull = pulls.join("k", download)
    pull._pace = Pace(0)
    seen = []
    async with aclosing(pull.follow()) as steps:
        async for step in steps:
            seen.append(step)
            if len(seen) == 1:
                assert download.report is not None
                for done in range(1, 1000):
                    download.report(progress_of(done=done, total=10_000))
                download.finish.set()
                await until(lambda: pull._ended)
    assert len(seen) <= 3
    assert seen[-1] == progress_of(done=100)


def test_the_pace_lets_through_what_is_new() -> None:
    pace = Pace(3600)
    admitted = [
        pace.admits(step)  # type: ignore[arg-type]
        for step in (
            progress_of(done=1), progress_of(done=2), progress_of(source="b"),
            progress_of("verifying"),
            progress_of("verifying", done=2), progress_of(done=3), progress_of(done=100),
        )
    ]  # fmt: skip
    assert admitted == [True, False, True, True, False, True, True]
