"""Several processes pull, some of them are killed: one download, and never a wrong file."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import takewhile
from pathlib import Path

import pytest

from openllm.config.download import DownloadOptions
from openllm.models import store
from openllm.models.pull import _POLL, pull
from openllm.models.ref import parse_ref
from tests.hub_puller import end, environment, start
from tests.hub_server import HubServer
from tests.unit.models.pulls import gguf, weights
from tests.waiting import wait_until

MB = 1 << 20
WEIGHTS = weights(20 * MB)
FILES = {"config.json": b"{}", "model.safetensors": WEIGHTS}
SIZE = sum(map(len, FILES.values()))
CHUNK = 16 * MB


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer({"org/tiny": FILES}) as server:
        yield server


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    return tmp_path / "home"


def stored_right() -> bool:
    (model,) = store.stored()
    content = Path(model.folder, "model.safetensors").read_bytes()
    return content == WEIGHTS and not store.verify(model.tag)


@pytest.mark.reliability("F-08")
@pytest.mark.parametrize("share", [0.0, 0.01, 0.25, 0.5, 0.99])
def test_a_killed_download_goes_on_where_it_was(hub: HubServer, home: Path, share: float) -> None:
    hub.faults.only, hub.faults.rate = "model.safetensors", 40 * MB
    process = start("org/tiny", environment(home, hub.url))
    # What is sent at the end may be in the process's own buffers: "99 %" is a little less.
    wait_until(lambda: hub.body_bytes >= min(share * SIZE, SIZE - MB) and hub.body_bytes > 2)
    process.send_signal(signal.SIGKILL)
    end(process)
    hub.faults.clear()
    first = hub.body_bytes
    hub.reset_counts()
    again = end(start("org/tiny", environment(home, hub.url)))
    assert again.status == 0, again
    assert stored_right()
    assert first + hub.body_bytes <= SIZE + 8 * MB < SIZE + CHUNK


@pytest.mark.reliability("F-09")
def test_eight_processes_and_eight_threads_cost_one_download(hub: HubServer, home: Path) -> None:
    environ = environment(home, hub.url)
    processes = [start("org/tiny", environ) for _ in range(8)]

    def one(_: int) -> str:
        options = DownloadOptions(hub_endpoint=hub.url)
        return pull(parse_ref("org/tiny"), options, framework=lambda *_: "llamacpp").tag

    with ThreadPoolExecutor(8) as pool:
        tags = set(pool.map(one, range(8)))
    ended = [end(process) for process in processes]
    assert [each.status for each in ended] == [0] * 8, ended
    assert tags | {each.last["tag"] for each in ended} == {store.stored()[0].tag}
    assert hub.body_bytes <= 1.05 * SIZE
    assert stored_right()


Puller = Callable[[str], "subprocess.Popen[str]"]


@pytest.fixture
def puller(hub: HubServer, home: Path) -> Iterator[Puller]:
    """Starts processes that pull a model each; none outlives the test."""
    with ExitStack() as running:

        def begin(text: str) -> subprocess.Popen[str]:
            process = running.enter_context(start(text, environment(home, hub.url)))
            running.callback(process.kill)
            return process

        yield begin


def ended(process: subprocess.Popen[str]) -> int:
    """Wait for the end of a process and return its status."""
    process.communicate(timeout=60)
    return process.returncode


def waiting(process: subprocess.Popen[str]) -> None:
    """Return once this process says that it waits for another one."""
    assert process.stdout is not None
    told = iter(process.stdout.readline, "")
    wait_until(lambda: '"waiting"' in next(told))


@pytest.mark.reliability("F-09")
def test_those_that_wait_for_a_url_take_what_came_and_others_ask_anew(
    hub: HubServer, puller: Puller
) -> None:
    content = gguf(4 * MB)
    url = hub.add_file("files/x.gguf", content)
    hub.faults.rate = MB // 32
    leader = puller(url)
    wait_until(lambda: hub.body_bytes > 0)
    others = [puller(url) for _ in range(3)]
    for other in others:
        waiting(other)
    hub.faults.clear()
    assert [ended(each) for each in (leader, *others)] == [0] * 4
    assert hub.body_bytes == len(content)
    hub.add_file("files/x.gguf", newer := gguf(4 * MB, seed=2))
    assert ended(puller(url)) == 0
    model = store.find(url)
    assert model is not None
    assert Path(model.path).read_bytes() == newer


def test_who_waited_is_remembered_by_the_name_it_asked_for(hub: HubServer, puller: Puller) -> None:
    hub.add_repo("org/tiny", FILES, "v1")
    hub.faults.only, hub.faults.rate = "model.safetensors", MB // 8
    leader = puller("org/tiny")
    wait_until(lambda: hub.asked("model.safetensors"))
    follower = puller("org/tiny@v1")
    waiting(follower)
    hub.faults.clear()
    assert [ended(each) for each in (leader, follower)] == [0, 0]
    assert hub.body_bytes == SIZE
    (model,) = store.stored()
    assert model.refs == ("main", "v1")


@pytest.mark.reliability("F-09")
def test_an_older_content_of_a_url_is_not_taken_for_what_never_came(
    hub: HubServer, puller: Puller
) -> None:
    url = hub.add_file("files/x.gguf", gguf(MB, seed=3))
    assert ended(puller(url)) == 0
    hub.add_file("files/x.gguf", newer := gguf(4 * MB, seed=4))
    hub.faults.rate = MB // 32
    hub.reset_counts()
    leader = puller(url)
    wait_until(lambda: hub.body_bytes > 0)
    follower = puller(url)
    waiting(follower)
    store.touch(store.stored()[0])  # As by a server that loads it meanwhile.
    leader.send_signal(signal.SIGKILL)
    ended(leader)
    hub.faults.clear()
    assert ended(follower) == 0
    model = store.find(url)
    assert model is not None
    assert Path(model.path).read_bytes() == newer


@pytest.mark.reliability("F-09")
def test_locks_that_lie_cost_bytes_but_no_file(hub: HubServer, home: Path) -> None:
    hub.faults.only, hub.faults.rate = "model.safetensors", MB
    environ = environment(home, hub.url, HUB_PULLER_LOCKS_LIE="1")
    processes = [start("org/tiny", environ) for _ in range(3)]
    wait_until(lambda: len(hub.asked("model.safetensors")) == 3)
    hub.faults.clear()
    ended = [end(process) for process in processes]
    assert [each.status for each in ended] == [0] * 3, ended
    assert stored_right()


@pytest.mark.reliability("F-09")
def test_who_waits_takes_over_from_who_is_killed(hub: HubServer, home: Path) -> None:
    hub.faults.only, hub.faults.rate = "model.safetensors", MB
    leader = start("org/tiny", environment(home, hub.url))
    wait_until(lambda: hub.body_bytes > 2 * MB)
    follower = start("org/tiny", environment(home, hub.url))
    assert follower.stdout is not None
    told = iter(follower.stdout.readline, "")
    wait_until(lambda: '"waiting"' in next(told))
    leader.send_signal(signal.SIGKILL)
    hub.faults.clear()
    end(leader)
    looks = sum(1 for _ in takewhile(lambda line: '"downloading"' not in line, told))
    assert looks * _POLL < 10.0
    assert end(follower).status == 0
    assert stored_right()
    assert hub.body_bytes <= SIZE + 8 * MB


@pytest.mark.reliability("F-08")
@pytest.mark.parametrize("stalled", [False, True])
def test_control_c_ends_soon_and_keeps_what_came(hub: HubServer, home: Path, stalled: bool) -> None:
    hub.faults.only, hub.faults.rate = "model.safetensors", 4 * MB
    if stalled:
        hub.faults.stall_after = 8 * MB
    process = start("org/tiny", environment(home, hub.url), download_timeout=60.0)
    wait_until(lambda: hub.body_bytes >= 8 * MB)
    process.send_signal(signal.SIGINT)
    asked = time.monotonic()
    assert end(process).status != 0
    assert time.monotonic() - asked < 20.0
    hub.faults.clear()
    hub.reset_counts()
    assert end(start("org/tiny", environment(home, hub.url))).status == 0
    assert hub.body_bytes <= SIZE - 6 * MB
    assert stored_right()


@pytest.mark.reliability("F-08")
def test_control_c_ends_a_listing_that_does_not_come(hub: HubServer, home: Path) -> None:
    hub.faults.listing_stall = True
    process = start("org/tiny", environment(home, hub.url), download_timeout=60.0)
    wait_until(lambda: bool(hub.requests))
    process.send_signal(signal.SIGINT)
    asked = time.monotonic()
    assert end(process).status != 0
    assert time.monotonic() - asked < 20.0


@pytest.mark.reliability("S-29")
def test_a_token_is_in_no_argument_output_or_file(hub: HubServer, home: Path) -> None:
    hub.add_repo("org/gated", FILES, gated=True)
    hub.tokens.add("hf_secret0123456789")
    hub.faults.redirect = True
    environ = environment(home, hub.url, HF_TOKEN="hf_secret0123456789")
    process = start("org/gated", environ)
    arguments = Path(f"/proc/{process.pid}/cmdline")
    shown = arguments.read_bytes() if arguments.exists() else b""
    ended = end(process)
    assert ended.status == 0, ended
    refused = end(start("org/gated", {**environ, "HF_TOKEN": "hf_secret_that_is_wrong"}))
    told = f"{ended} {refused} {shown!r}"
    assert refused.last["error"] == "ModelFetchError"
    assert "hf_secret" not in told
    assert not hub.tokens_seen("cdn")
    assert not any(b"hf_secret" in p.read_bytes() for p in home.rglob("*") if p.is_file())
