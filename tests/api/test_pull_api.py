"""POST /pull: who may ask, what may be asked for, what is streamed, and what is shared."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx2
import pytest
from pydantic import TypeAdapter

from openllm.config.model import RequestDefaults
from openllm.config.server import ServerSettings
from openllm.errors import ConfigurationError, ModelFetchError, OpenLLMError
from openllm.llm import fetching
from openllm.models.pull import Progress
from openllm.models.ref import ModelRef
from openllm.server.pull_api import PullEvent
from openllm.types import LocalModel
from tests.api.conftest import ScriptedFleet, Server, running, scripted_engine
from tests.hub_server import HubServer

pytestmark = pytest.mark.anyio

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TAG = f"llamacpp-org--name:{COMMIT}"
MODEL = LocalModel(
    name="name", path="/x.gguf", format="gguf", source="org/name", revision=COMMIT, tag=TAG
)


def progress_of(
    phase: str, source: str = "org/name", file: str = "", done: int = 0, total: int = 100
) -> Progress:
    """Return what a download tells."""
    return Progress(phase, source, file, done, total)


class Downloads:
    """Stands for `local_model`; remembers what was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.options: Any = None
        self.steps: list[Progress] = [
            progress_of("listing"),
            progress_of("downloading"),
            progress_of("done", done=100),
        ]
        self.error: Exception | None = None
        self.held = threading.Event()
        self.held.set()
        self.cancelled = threading.Event()

    def __call__(
        self,
        ref: ModelRef,
        options: Any,
        *,
        on_progress: Callable[[Any], None],
        cancelled: threading.Event,
    ) -> LocalModel:
        self.asked.append(str(ref))
        self.options = options
        for step in self.steps:
            on_progress(step)
        while not self.held.wait(0.01):
            if cancelled.is_set():
                self.cancelled.set()
                raise RuntimeError("cancelled")
        if self.error is not None:
            raise self.error
        return MODEL


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> Downloads:
    stand_in = Downloads()
    monkeypatch.setattr(fetching, "local_model", stand_in)
    return stand_in


@pytest.fixture
def pulling(tmp_path: Path) -> Iterator[Server]:
    """A server started with --allow-pull."""
    fleet = ScriptedFleet({"demo": scripted_engine(tmp_path, "demo")}, RequestDefaults())
    with running(fleet, ServerSettings(allow_pull=True)) as server:
        yield server


async def pull(server: Server, model: Any, **headers: str) -> httpx2.Response:
    async with server.http() as client:
        return await client.post("/pull", json={"model": model}, headers=headers)


class Follower:
    """A client in the midst of a download: the first event has come."""

    def __init__(self) -> None:
        self._began = asyncio.Event()

    @classmethod
    async def begun(cls, server: Server) -> Follower:
        self = cls()
        self._task = asyncio.create_task(self._read(server))
        await asyncio.wait_for(self._began.wait(), 20)
        return self

    async def _read(self, server: Server) -> list[dict[str, Any]]:
        async with (
            server.http() as client,
            client.stream("POST", "/pull", json={"model": "org/name"}) as answer,
        ):
            found: list[dict[str, Any]] = []
            async for line in answer.aiter_lines():
                if line:
                    found.append(json.loads(line.removeprefix("data: ")))
                    self._began.set()
            return found

    async def last(self) -> dict[str, Any]:
        """Return the last event."""
        return (await self._task)[-1]

    async def leave(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


def events(answer: httpx2.Response) -> list[dict[str, Any]]:
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    lines = [line for line in answer.text.split("\n\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    return [json.loads(line.removeprefix("data: ")) for line in lines]


async def test_progress_is_streamed_and_the_tag_comes_last(
    pulling: Server, downloads: Downloads
) -> None:
    answer = await pull(pulling, "org/name@main")
    assert answer.status_code == 200
    *steps, last = events(answer)
    assert [step["phase"] for step in steps][-1] == "done"
    assert steps[-1] == {
        "phase": "done", "source": "org/name", "file": "", "done": 100, "total": 100,
    }  # fmt: skip
    assert last == {"model": "org/name@main", "tag": TAG, "source": "org/name", "revision": COMMIT}
    assert downloads.asked == ["org/name@main"]
    for event in (*steps, last):
        TypeAdapter(PullEvent).validate_python(event, extra="forbid")
    assert "/x.gguf" not in answer.text


async def test_the_server_of_every_day_refuses(server: Server, downloads: Downloads) -> None:
    answer = await pull(server, "org/name")
    assert answer.status_code == 403
    assert "--allow-pull" in answer.json()["error"]["message"]
    assert downloads.asked == []


@pytest.mark.reliability("S-02")
async def test_a_key_is_needed_where_there_are_keys(tmp_path: Path, downloads: Downloads) -> None:
    fleet = ScriptedFleet({"demo": scripted_engine(tmp_path, "demo")}, RequestDefaults())
    with running(fleet, ServerSettings(allow_pull=True, api_key=("k",))) as server:
        assert (await pull(server, "org/name")).status_code == 401
        assert downloads.asked == []
        assert (await pull(server, "org/name", authorization="Bearer k")).status_code == 200


@pytest.mark.reliability("S-28")
@pytest.mark.parametrize(
    "model",
    [
        "./x.gguf", "/etc/passwd", "~/x", "..", "../..", "/", "a.gguf", "x=org/name", "-x", " ",
        "a\\b", "org/name@../x", "org/name:../x.gguf", "org/%2e%2e", "org/na\u0000me", "org/..",
        "http://127.0.0.1/x.gguf", "https://169.254.169.254/latest/x.gguf", "file:///etc/passwd",
        "", 5, None, "x" * 600,
    ],
)  # fmt: skip
async def test_paths_urls_and_nonsense_are_refused(
    pulling: Server, downloads: Downloads, model: Any
) -> None:
    answer = await pull(pulling, model)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert downloads.asked == []


@pytest.mark.reliability("S-28")
async def test_what_lies_on_the_disk_is_not_told(
    pulling: Server, downloads: Downloads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    there, absent = await pull(pulling, "there"), await pull(pulling, "gone")
    assert there.status_code == absent.status_code == 404
    assert there.text.replace("there", "gone") == absent.text
    assert there.json()["error"]["code"] == "model_not_found"
    assert downloads.asked == []


async def test_an_unknown_field_is_refused(pulling: Server, downloads: Downloads) -> None:
    async with pulling.http() as client:
        answer = await client.post("/pull", json={"model": "org/name", "revsion": "x"})
    assert answer.status_code == 400
    assert "revsion is not a known field" in answer.json()["error"]["message"]
    assert downloads.asked == []


async def test_an_error_before_the_first_byte_is_a_plain_answer(
    pulling: Server, downloads: Downloads
) -> None:
    downloads.steps = [progress_of("listing")]
    downloads.error = ConfigurationError("the hub knows no org/name; correct it")
    answer = await pull(pulling, "org/name")
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["message"], error["param"]) == ("the hub knows no org/name; correct it", "model")


@pytest.mark.reliability("S-37")
async def test_where_the_store_lies_is_not_told(
    pulling: Server, downloads: Downloads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path))
    downloads.steps = []
    downloads.error = ModelFetchError(f"it needs 9 bytes, and {tmp_path}/openllm has 1 free")
    answer = await pull(pulling, "org/name")
    assert answer.status_code == 503
    assert answer.json()["error"]["message"] == "it needs 9 bytes, and the store/openllm has 1 free"


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (ConfigurationError("the disk is full"), "the disk is full"),
        (OpenLLMError("the hub is down"), "the server failed"),
        (RuntimeError("secret detail"), "the server failed"),
    ],
)
async def test_an_error_in_mid_stream_is_the_last_event(
    pulling: Server, downloads: Downloads, error: Exception, shown: str
) -> None:
    downloads.error = error
    downloads.held.clear()
    follower = await Follower.begun(pulling)
    downloads.held.set()
    last = await follower.last()
    assert set(last) == {"error"}
    assert set(last["error"]) == {"message", "type", "param", "code"}
    assert shown in last["error"]["message"]
    assert "secret detail" not in last["error"]["message"]


@pytest.mark.reliability("F-09")
async def test_clients_share_a_download_and_none_ends_it_for_others(
    pulling: Server, downloads: Downloads
) -> None:
    downloads.held.clear()
    followers = await asyncio.gather(*(Follower.begun(pulling) for _ in range(8)))
    staying, leaving = followers[:6], followers[6:]
    for follower in leaving:
        await follower.leave()
    await asyncio.sleep(0.3)  # Time to do wrong.
    assert not downloads.cancelled.is_set()
    downloads.held.set()
    for follower in staying:
        assert (await follower.last())["tag"] == TAG
    assert downloads.asked == ["org/name"]


@pytest.mark.reliability("F-09", "F-15")
async def test_other_settings_leave_the_downloads(pulling: Server, downloads: Downloads) -> None:
    downloads.held.clear()
    before = await Follower.begun(pulling)
    pulling.front.apply(ServerSettings(allow_pull=True, timeout=300))
    after = await Follower.begun(pulling)
    downloads.held.set()
    for follower in (before, after):
        assert (await follower.last())["tag"] == TAG
    assert downloads.asked == ["org/name"]


@pytest.mark.reliability("F-01")
async def test_when_the_last_client_leaves_the_download_ends(
    pulling: Server, downloads: Downloads
) -> None:
    downloads.held.clear()
    follower = await Follower.begun(pulling)
    await follower.leave()
    assert await asyncio.to_thread(downloads.cancelled.wait, 20)


async def test_the_bundled_model_needs_no_download(pulling: Server) -> None:
    (only,) = events(await pull(pulling, "demo"))
    assert only == {"model": "demo", "tag": "", "source": "", "revision": ""}


@pytest.mark.reliability("F-09")
async def test_eight_clients_cost_the_hub_one_download(
    pulling: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = files("openllm").joinpath("demo", "demo-q8_0.gguf").read_bytes()
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "home"))
    with HubServer() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        commit = hub.add_repo("org/tiny", {"tiny-q8_0.gguf": weights})
        hub.faults.rate = 2 * len(weights)
        answers = await asyncio.gather(*(pull(pulling, "org/tiny") for _ in range(8)))
        assert hub.body_bytes <= 1.05 * len(weights)
        for answer in answers:
            assert events(answer)[-1]["tag"].endswith(commit)
        missing = await pull(pulling, "org/absent")
        assert missing.status_code in (404, 503)
        for shown in (missing.text, *(answer.text for answer in answers)):
            assert str(tmp_path) not in shown
