"""Reading the configuration again: what is taken over, what is told, what stays."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import anyio
import pytest

from openllm.bento.checks import Checked
from openllm.bento.options import read_configuration
from openllm.bento.reload import IN_PLACE, NOT_BY_GRPC, Reload
from openllm.config.download import DownloadOptions
from openllm.config.effective import Configuration, Entry
from openllm.config.server import ServerSettings
from openllm.errors import ModelFetchError, OutOfMemoryError
from openllm.fleet import Replaced
from openllm.types import LocalModel
from tests.unit.bento.models import script

pytestmark = [pytest.mark.anyio, pytest.mark.reliability("F-15")]

NOTHING = Replaced((), (), (), (), {}, ())


class Server:
    """What a reload changes: settings in force and a fleet; reads a file, and counts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "serve.yaml"
        self.model = script(folder, "one")
        self.settings: list[ServerSettings] = []
        self.models: list[list[str]] = []
        self.graces: list[float] = []
        self.replaced = NOTHING
        self.reads = 0
        self.held = threading.Event()
        self.held.set()

    def write(self, text: str = "") -> None:
        self.file.write_text(f"{text}\nmodels: {{one: {self.model}}}\n")

    def read(self) -> Configuration:
        self.reads += 1
        assert self.held.wait(60)
        return read_configuration(None, {}, {}, file=str(self.file))

    def apply(self, settings: ServerSettings, _: DownloadOptions) -> None:
        self.settings.append(settings)

    async def replace(
        self, models: Sequence[LocalModel], configs: dict[str, Any], *, grace: float
    ) -> Replaced:
        assert set(configs) == {model.name for model in models}
        self.models.append([model.name for model in models])
        self.graces.append(grace)
        return self.replaced


@pytest.fixture
def server(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Server:
    caplog.set_level(logging.INFO, "openllm")
    server = Server(tmp_path)
    server.write()
    return server


@asynccontextmanager
async def reloading(server: Server) -> AsyncIterator[Reload]:
    fleet: Any = server
    reload = Reload(server.read(), server.read, fleet, server.apply)
    server.reads = 0
    task = asyncio.create_task(reload.run())
    try:
        yield reload
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.wait([task])


async def told(caplog: pytest.LogCaptureFixture, count: int = 1) -> list[str]:
    """Wait until a reload has come to its end, `count` times; returns all that was logged."""

    def ends() -> int:
        return sum(
            each.name == "openllm" and ("configuration" in each.msg) for each in caplog.records
        )

    with anyio.fail_after(30):
        while ends() < count:  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.01)
    return [f"{each.levelname} {each.getMessage()}" for each in caplog.records]


async def test_nothing_is_said_to_change(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    async with reloading(server) as reload:
        reload.ask()
        assert await told(caplog) == ["INFO configuration read again, changed: nothing"]
    assert server.models == [["one"]]
    assert server.graces == [30]


async def test_every_mistake_is_told_and_nothing_changes(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    async with reloading(server) as reload:
        server.write("timeout: 5\ntemprature: 1\ntop_p: 3")
        reload.ask()
        (line,) = await told(caplog)
        assert server.settings == server.models == []
        server.write("timeout: 5")
        reload.ask()
        assert "changed: timeout" in (await told(caplog, 2))[-1]
    assert line.startswith("ERROR the configuration was not taken, nothing has changed: 2 settings")
    assert "line 2" in line
    assert "did you mean 'temperature'" in line
    assert "line 3: top_p 3 must be a number from 0 to 1" in line


@pytest.mark.parametrize("what", ["key file", "engine", "prompt", "option"])
async def test_files_are_checked_as_well(
    server: Server, caplog: pytest.LogCaptureFixture, what: str, tmp_path: Path
) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "latin").write_bytes(b"Gr\xfc\xdfe")
    text = {
        "key file": f"api_key_file: {tmp_path}/empty",
        "engine": "timeout: 5\nbackend: abacus",
        "option": "timeout: 5\ndtype: half",
        "prompt": f"prompt: {tmp_path}/latin",
    }[what]
    async with reloading(server) as reload:
        server.write(text)
        reload.ask()
        (line,) = await told(caplog)
    assert line.startswith("ERROR the configuration was not taken, nothing has changed: ")
    assert f"{server.file.name}, line" in line
    assert server.settings == server.models == []


async def test_asked_at_work_it_begins_once_more(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    async with reloading(server) as reload:
        server.held.clear()
        reload.ask()
        with anyio.fail_after(30):
            while not server.reads:  # noqa: ASYNC110 - there is no event to wait for
                await asyncio.sleep(0.01)
        for _ in range(5):
            reload.ask()
            await asyncio.sleep(0.01)
        assert server.reads == 1
        server.held.set()
        await told(caplog, 2)
        await asyncio.sleep(0.1)
        assert server.reads == 2


async def test_what_needs_a_new_start_keeps_its_value(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    async with reloading(server) as reload:
        server.write("port: 6000\nmax_waiting: 7\ntimeout: 5")
        reload.ask()
        lines = await told(caplog)
        reload.ask()
        assert (await told(caplog, 2))[-1].endswith("changed: nothing")
    name = server.file
    assert lines == [
        f"WARNING {name}, line 1: port: it takes a new start to change this",
        f"WARNING {name}, line 2: max_waiting: it takes a new start to change this",
        "INFO configuration read again, changed: timeout",
    ]
    (settings, _) = server.settings
    assert (settings.port, settings.max_waiting, settings.timeout) == (5000, 512, 5)


async def test_grpc_keeps_the_size_of_requests(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    server.write("grpc: true")
    async with reloading(server) as reload:
        server.write("grpc: true\nmax_body_bytes: 2048\ntimeout: 5")
        reload.ask()
        lines = await told(caplog)
    assert lines == [
        f"WARNING {server.file}, line 2: max_body_bytes: it takes a new start to change this",
        "INFO configuration read again, changed: timeout",
    ]
    assert server.settings[0].max_body_bytes == 8 << 20


async def test_an_option_that_is_gone_is_named_by_its_flag(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    server.write("port: 6000")
    async with reloading(server) as reload:
        server.write()
        reload.ask()
        first, _ = await told(caplog)
    assert first == "WARNING --port: it takes a new start to change this"


async def test_keys_are_told_by_name_alone(
    server: Server, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    keys.write_text("first\n")
    server.write(f"api_key_file: {keys}")
    async with reloading(server) as reload:
        keys.write_text("second\n")
        reload.ask()
        await told(caplog)
        server.write(f"api_key_file: {keys}\napi_key: third")
        reload.ask()
        await told(caplog, 2)
        server.write("host: 127.0.0.1")
        reload.ask()
        lines = await told(caplog, 3)
    assert [line.partition("changed: ")[2] for line in lines if line.startswith("INFO")] == [
        f"keys in {str(keys)!r}",
        "api_key",
        "api_key; api_key_file",
    ]
    assert not any("second" in line or "third" in line for line in lines)


async def test_a_server_without_keys_that_others_reach_is_warned_of(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    server.write("host: 0.0.0.0\napi_key: x")
    async with reloading(server) as reload:
        server.write("host: 0.0.0.0")
        reload.ask()
        lines = await told(caplog)
    assert lines[0].startswith("WARNING anyone who can reach 0.0.0.0 can use the models")


def all_missing(configuration: Configuration) -> Checked:
    return Checked(None, configuration.entries)


async def test_models_that_cannot_be_had_stay_as_they_were(
    server: Server, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ModelFetchError("the hub has no such model", param="backend")

    async with reloading(server) as reload:
        monkeypatch.setattr("openllm.bento.reload.fetch", fail)
        monkeypatch.setattr("openllm.bento.reload.check", all_missing)
        server.write("timeout: 5")
        reload.ask()
        lines = await told(caplog)
        monkeypatch.undo()
    assert lines == [
        "ERROR the models stay as they were: the hub has no such model",
        "INFO configuration read again, changed: timeout",
    ]
    assert server.models == []


async def test_a_model_that_the_memory_cannot_hold_is_not_fetched(
    server: Server, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(entries: Sequence[Entry]) -> bool:
        assert [entry.name for entry in entries] == ["two"]
        raise OutOfMemoryError("2.0 GiB of memory are needed and 1.0 GiB are free")

    monkeypatch.setattr("openllm.bento.reload.check_memory_ahead", full)
    two = script(server.folder, "two")
    async with reloading(server) as reload:
        server.file.write_text(f"models: {{one: {server.model}, two: {two}}}")
        reload.ask()
        lines = await told(caplog)
        server.file.write_text(f"models: {{two: {two}}}")  # The other's memory becomes free.
        reload.ask()
        await told(caplog, 2)
    assert lines[0].startswith("ERROR the models stay as they were: 2.0 GiB of memory are needed")
    assert server.models == [["two"]]


async def test_a_download_ends_with_the_server(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, ended = threading.Event(), threading.Event()

    def download(_: object, on_progress: object, cancelled: threading.Event) -> None:
        begun.set()
        if cancelled.wait(60):
            ended.set()

    monkeypatch.setattr("openllm.bento.reload.fetch", download)
    monkeypatch.setattr("openllm.bento.reload.check", all_missing)
    async with reloading(server) as reload:
        reload.ask()
        assert await asyncio.to_thread(begun.wait, 10)
        assert not ended.is_set()
    assert await asyncio.to_thread(ended.wait, 5)


async def test_a_download_does_not_keep_from_reading_again(
    server: Server, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, ended = threading.Event(), threading.Event()

    def download(
        _: object, on_progress: object, cancelled: threading.Event
    ) -> tuple[LocalModel, ...]:
        if not begun.is_set():
            begun.set()
            assert cancelled.wait(60)
            ended.set()
            raise ModelFetchError("it was cancelled")
        return ()

    monkeypatch.setattr("openllm.bento.reload.fetch", download)
    monkeypatch.setattr("openllm.bento.reload.check", all_missing)
    monkeypatch.setattr("openllm.bento.reload.check_ahead", lambda *_: None)
    monkeypatch.setattr(server, "replace", replace := AsyncMock(return_value=NOTHING))
    async with reloading(server) as reload:
        server.write("timeout: 5")
        reload.ask()
        assert await asyncio.to_thread(begun.wait, 10)
        server.write("timeout: 6")
        reload.ask()
        lines = await told(caplog, 2)
    assert ended.is_set()
    assert lines == [
        "INFO configuration read again, changed: timeout; no model yet, as the configuration is to"
        " be read once more",
        "INFO configuration read again, changed: timeout",
    ]
    assert [each.timeout for each in server.settings] == [5, 6]
    replace.assert_awaited_once()


async def test_what_the_fleet_did_is_told(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    server.replaced = Replaced(
        ("a", "b"), ("c",), ("d", "f"), ("e",), dict.fromkeys("bf", ModelFetchError("no")), ("f",)
    )
    async with reloading(server) as reload:
        reload.ask()
        (line,) = await told(caplog)
    assert line == (
        "INFO configuration read again, changed: added a, b; removed c; restarted d, f; other"
        " request defaults for e; could not be loaded: b; could not be loaded like this and goes on"
        " as it was: f"
    )


async def test_a_fault_of_ours_ends_nothing(
    server: Server, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with reloading(server) as reload:
        monkeypatch.setattr(server, "replaced", None)
        reload.ask()
        assert await told(caplog) == ["ERROR reading the configuration again failed"]
        monkeypatch.undo()
        reload.ask()
        assert (await told(caplog, 2))[-1] == "INFO configuration read again, changed: nothing"


async def test_a_mistake_leaves_the_folder_of_models(
    server: Server, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENTOML_HOME", str(server.folder))
    async with reloading(server) as reload:
        server.write(f"models_dir: {server.folder}/other\nbackend: abacus")
        reload.ask()
        assert "abacus" in (await told(caplog))[0]
    assert os.environ["BENTOML_HOME"] == str(server.folder)


async def test_a_folder_of_models_can_be_taken_away(
    server: Server, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENTOML_HOME", str(server.folder))
    server.write(f"models_dir: {server.folder}/other")
    async with reloading(server) as reload:
        assert os.environ["BENTOML_HOME"] == f"{server.folder}/other"
        server.write()
        reload.ask()
        assert "changed: models_dir" in (await told(caplog))[-1]
        assert os.environ["BENTOML_HOME"] == str(server.folder)


def test_settings_that_change_in_place_exist() -> None:
    assert set(ServerSettings.model_fields) >= IN_PLACE >= NOT_BY_GRPC
