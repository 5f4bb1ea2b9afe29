"""`openllm start` of a hub's model: fetched by the first start, and no call of the second."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

import openllm
from openllm.models.store import stored
from tests.e2e.server_process import COMMAND, run, serving
from tests.hub_server import HubServer
from tests.unit.models.gguf_bytes import wide_model
from tests.waiting import wait_until

GGUF = (Path(openllm.__file__).parent / "demo" / "demo-q8_0.gguf").read_bytes()


@pytest.fixture(autouse=True)
def empty_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "store"))


@pytest.mark.spec("S0-08", "S0-09")
def test_the_second_start_makes_no_network_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with HubServer({"org/tiny": {"demo-q8_0.gguf": GGUF}}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        for _ in range(2):
            with serving("org/tiny,mine=org/tiny@main") as server:
                assert server.ready["models"] == ["tiny", "mine"]
                body = {"model": "mine", "prompt": "Once", "max_tokens": 2}
                answer = server.post("/v1/completions", body)
                assert answer.json()["usage"]["completion_tokens"] == 2
            asked, hub.requests = list(hub.requests), []
        assert asked == []
        assert len(GGUF) <= hub.body_bytes <= 1.05 * len(GGUF)
        monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "other"))
        done = run("start", "org/tiny", "--offline")
        assert done.returncode == 2
        assert "openllm pull org/tiny" in done.stderr
        done = run("start", "org/tiny,lama")
        assert done.returncode == 2
        assert "Did you mean 'llama'" in done.stderr
        assert hub.requests == []


@pytest.mark.spec("S0-08", "S0-09")
@pytest.mark.reliability("F-08")
def test_killed_twice_and_cut_off_it_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    with HubServer({"org/tiny": {"demo-q8_0.gguf": GGUF}}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        hub.faults.rate = len(GGUF) // 4
        kill_once(lambda: arrived() > len(GGUF) // 2)
        assert stored() == ()
        hub.faults.clear()
        hub.reset_counts()  # What was on its way is lost; what had arrived is not.
        kill_once(lambda: bool(stored()))
        assert hub.body_bytes < 0.75 * len(GGUF)
    with serving("org/tiny") as server:
        answer = server.post("/v1/completions", {"prompt": "Once", "max_tokens": 2})
        assert answer.json()["usage"]["completion_tokens"] == 2


def kill_once(reached: Callable[[], bool]) -> None:
    """Start a server of the hub's model and kill it at the moment that `reached` tells."""
    process = subprocess.Popen(
        [*COMMAND, "start", "org/tiny", "--port", "0"], stdout=subprocess.DEVNULL
    )
    try:
        wait_until(lambda: reached() or process.poll() is not None, 60)
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


def arrived() -> int:
    """Return how much of the model is on the disk: more was sent, and may be on its way."""
    most = 0
    for folder, _, names in os.walk(os.environ["BENTOML_HOME"]):
        for name in names:
            with suppress(FileNotFoundError):  # Files are moved meanwhile.
                most = max(most, os.stat(os.path.join(folder, name)).st_size)
    return most


@pytest.mark.reliability("F-08")
def test_sigterm_ends_a_download_and_keeps_what_came(monkeypatch: pytest.MonkeyPatch) -> None:
    with HubServer({"org/tiny": {"demo-q8_0.gguf": GGUF}}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        hub.faults.rate = len(GGUF) // 4
        with downloading() as process:
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        line = "Ended by SIGTERM: what has been downloaded is kept; the same command goes on"
        assert errors.splitlines()[-1].startswith(line)
        assert "Traceback" not in errors
        assert errors.count("\n") <= 3
        hub.faults.clear()
        before = hub.body_bytes
        assert run("pull", "org/tiny").returncode == 0
        assert hub.body_bytes - before < 0.9 * len(GGUF)


def test_sighup_in_a_download_is_done_when_the_models_are_ready(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with HubServer({"org/tiny": {"demo-q8_0.gguf": GGUF}}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        hub.faults.rate = len(GGUF) // 2
        with downloading("--log-level", "info") as process:
            process.send_signal(signal.SIGHUP)
            assert process.stdout is not None
            assert process.stderr is not None
            assert process.stdout.readline().startswith('{"ready"')
            for line in process.stderr:
                if "configuration read again, changed: nothing" in line:
                    break
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0


@contextmanager
def downloading(*flags: str) -> Iterator[subprocess.Popen[str]]:
    """Start a server of a hub's model, and wait until a part of it has come."""
    process = subprocess.Popen(
        [*COMMAND, "start", "org/tiny", "--port", "0", *flags],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        wait_until(lambda: arrived() > len(GGUF) // 4 or process.poll() is not None, 60)
        assert process.poll() is None
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.spec("S3-01")
def test_a_model_that_the_memory_cannot_hold_is_not_downloaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    large = wide_model(64 << 20)
    with HubServer({"org/large": {"large-q8_0.gguf": large}}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        asked = ("--context-length", "131072", "--max-concurrency", "1024")
        done = run("start", "org/large", *asked)
        assert done.returncode == 1
        assert "of memory are needed at least" in done.stderr
        assert " are free (large " in done.stderr
        assert "Traceback" not in done.stderr
        assert hub.body_bytes <= 1 << 20
