"""What hashing costs a download; what a kill costs `openllm pull`, and what many at once cost."""

from __future__ import annotations

import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from unittest import mock

from benchmarks.results import Goal, Result
from openllm.config.download import DownloadOptions
from openllm.models import transfer, transfer_content
from openllm.models.hub import RemoteFile, inspect
from openllm.models.hub_files import wanted
from openllm.models.ref import parse_ref
from openllm.models.transfer_http import Session
from openllm.models.transfer_retry import Pace
from openllm.models.transfer_stop import Halt
from tests.hub_apart import served_apart
from tests.hub_puller import end, environment, start_command
from tests.hub_server import HubServer
from tests.unit.models.pulls import headed_gguf

MB = 1 << 20
LARGE = 256 * MB
"""Bytes of the file whose hashing is timed."""
SMALL = 64 * MB
"""Bytes of the weights that commands pull, behind a header as long as a large vocabulary's."""
HEADER = 7 * MB
PULLERS = 8
REPO = "org/model"


def run(rounds: int = 5) -> Result:
    """Time downloads with and without hashing in turn; then kill one, and start eight at once."""
    with_hash, without = _timed(rounds)
    share = 1.0 - median(without) / median(with_hash)
    content = headed_gguf(HEADER, SMALL)
    refetched = [_refetched(content, part) for part in (0.05, 0.25, 0.5, 0.99)]
    alone, copies = _copies(content, 1), _copies(content, PULLERS)
    return Result(
        benchmark="download",
        goals=[
            Goal("hashing, share of a loopback download's time", 100.0 * share, 15.0, "%"),
            Goal("bytes fetched again after SIGKILL, worst", max(refetched) / MB, 16.0, "MB"),
            Goal("bytes for one puller, of one copy", alone, 1.05, "x"),
            Goal(f"bytes for {PULLERS} pullers, of one copy", copies, 1.05, "x"),
        ],
        figures={
            "hashed_mb_per_s": LARGE / median(with_hash) / 1e6,
            "unhashed_mb_per_s": LARGE / median(without) / 1e6,
            "hash_share_percent": 100.0 * share,
            "refetched_bytes": max(refetched),
            "copies": copies,
            "copies_alone": alone,
        },
        data={"hashed_s": with_hash, "unhashed_s": without, "refetched_bytes": refetched},
    )


class _NoHasher:
    """Stands for `transfer_content._Hasher`: believes whatever comes."""

    def __init__(self, descriptor: int, remote: RemoteFile) -> None:
        self.sha256, self.blob, self.offset = remote.sha256, remote.blob, 0

    def go_on(self, end: int) -> None:
        self.offset = end

    def finish(self, halt: Halt) -> None: ...

    def close(self) -> None: ...


def _timed(rounds: int) -> tuple[list[float], list[float]]:
    """Return the seconds of downloads with hashing and without; the first of each is dropped."""
    with_hash, without = [], []
    # In a process of its own: the server's work would count as the download's otherwise.
    with served_apart(REPO, LARGE) as url:
        options = DownloadOptions(hub_endpoint=url)
        (remote,) = wanted(inspect(parse_ref(REPO), options))
        for _ in range(rounds + 1):
            with_hash.append(_fetch(remote, options))
            with mock.patch.object(transfer_content, "_Hasher", _NoHasher):
                without.append(_fetch(remote, options))
    return with_hash[1:], without[1:]


def _fetch(remote: RemoteFile, options: DownloadOptions) -> float:
    watch = transfer.Watch(Pace(None), lambda *_: None, lambda _: None)
    with tempfile.TemporaryDirectory() as folder, Session(options, options.endpoint) as session:
        begin = time.perf_counter()
        transfer.fetch_file(session, remote, Path(folder), watch)
        return time.perf_counter() - begin


@contextmanager
def _small_hub(content: bytes) -> Iterator[tuple[HubServer, Path]]:
    with tempfile.TemporaryDirectory() as home, HubServer() as hub:
        hub.add_repo(REPO, {"model-Q4_0.gguf": content})
        yield hub, Path(home)


def _refetched(content: bytes, part: float) -> int:
    """Return the bytes sent twice when a puller is killed after this part of the file."""
    with _small_hub(content) as (hub, home):
        environ = environment(home, hub.url)
        hub.faults.rate = 100 * MB
        process = start_command(REPO, environ)
        while hub.body_bytes < part * len(content) and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        end(process)
        hub.faults.clear()
        _check(end(start_command(REPO, environ)).status)
        return max(hub.body_bytes - len(content), 0)


def _copies(content: bytes, pullers: int) -> float:
    with _small_hub(content) as (hub, home):
        processes = [start_command(REPO, environment(home, hub.url)) for _ in range(pullers)]
        for process in processes:
            _check(end(process, 120.0).status)
        return hub.body_bytes / len(content)


def _check(status: int) -> None:
    if status:
        raise RuntimeError("a puller failed; run tests/unit/models/test_pull_ahead.py")
