"""SIGHUP to a server: the configuration is read again, and what it serves changes."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

import openllm
from openllm.types import LocalModel
from tests.e2e.server_process import COMMAND, ServerProcess, serving
from tests.hub_server import HubServer
from tests.processes import alive_after, runners
from tests.waiting import happens, wait_until

GGUF = (Path(openllm.__file__).parent / "demo" / "demo-q8_0.gguf").read_bytes()
Scripted = Callable[..., LocalModel]
pytestmark = pytest.mark.reliability("F-15")


class Reloadable:
    """A server started from a file of settings, and what it logs."""

    def __init__(self, folder: Path, server: ServerProcess) -> None:
        self.server = server
        self._folder = folder
        self._read = 0

    def reload(self, says: str, **settings: object) -> str:
        """Change the file and send SIGHUP; returns what is logged until it has `says`."""
        write(self._folder, **settings)
        self.server.process.send_signal(signal.SIGHUP)
        return self.logged(says)

    def logged(self, says: str) -> str:
        assert happens(lambda: says in self._new, 60), f"{says!r} was not logged but {self._new!r}"
        new = self._new
        self._read += len(new)
        return new

    @property
    def _new(self) -> str:
        return (self._folder / "log").read_text()[self._read :]

    def models(self, **options: Any) -> list[str]:
        return [each["id"] for each in self.server.get("/v1/models", **options).json()["data"]]

    def chat(self, **body: Any) -> Any:
        return self.server.post("/chat", {"prompt": "Hi", **body}).json()

    def pids(self) -> set[int]:
        return {each.pid for each in runners(self.server.process.pid)}


def write(folder: Path, **settings: object) -> None:
    (folder / "serve.json").write_text(json.dumps(settings))


@contextmanager
def reloadable(folder: Path, *flags: str, **settings: object) -> Iterator[Reloadable]:
    write(folder, **settings)
    with (
        (folder / "log").open("w") as log,
        serving(str(folder / "serve.json"), *flags, stderr=log.fileno()) as server,
    ):
        yield Reloadable(folder, server)


def test_a_mistake_keeps_the_old_one_serving(scripted: Scripted, tmp_path: Path) -> None:
    good = {"models": {"one": scripted("one").path}}
    with reloadable(tmp_path, **good) as each:
        before = each.pids()
        said = each.reload(
            "nothing has changed", models={"two": "no-such-model"}, temprature=1, top_p=7
        )
        for part in ("3 settings", "no-such-model", "did you mean 'temperature'", "top_p 7"):
            assert part in said
        (tmp_path / "serve.json").write_text("{")
        each.server.process.send_signal(signal.SIGHUP)
        each.logged("nothing has changed")
        assert each.chat()["message"] == "You said: Hi"
        assert each.models() == ["one"]
        assert each.pids() == before
        each.reload("changed: other request defaults for one", **good, temperature=0.3)
        assert each.chat()["configuration"]["temperature"] == 0.3
        assert each.pids() == before
    assert each.server.process.returncode == 0


def test_models_come_and_go_while_the_others_stream(scripted: Scripted, tmp_path: Path) -> None:
    one, two, three = (scripted(name).path for name in ("one", "two", "three"))
    begun = {"one": threading.Event(), "two": threading.Event()}
    lines: dict[str, list[str]] = {"one": [], "two": []}

    def stream(name: str) -> None:
        body = {"model": name, "prompt": "long", "max_tokens": 300, "stream": True}
        url = each.server.url + "/v1/completions"
        with httpx2.stream("POST", url, json=body, timeout=60) as answer:
            for line in answer.iter_lines():
                lines[name].append(line)
                begun[name].set()

    with reloadable(tmp_path, models={"one": one, "two": two}) as each:
        before = each.pids()
        streams = [threading.Thread(target=stream, args=(name,)) for name in ("one", "two")]
        for thread in streams:
            thread.start()
        assert all(event.wait(30) for event in begun.values())
        each.reload("changed: added three; removed two", models={"three": three, "one": one})
        for thread in streams:
            thread.join()
        for got in lines.values():
            assert sum('"text":"word' in line for line in got) == 150  # And as many blanks.
            assert "data: [DONE]" in got
        assert each.models() == ["three", "one"]
        assert each.chat()["configuration"]["model"] == "three"
        assert each.server.post("/chat", {"prompt": "Hi", "model": "two"}).status_code == 404
        assert len(each.pids() & before) == 1
        assert len(each.pids()) == 2
        assert each.server.get("/readyz").status_code == 200


def test_a_model_with_other_options_is_started_again(scripted: Scripted, tmp_path: Path) -> None:
    one, two = {"model": scripted("one").path}, {"model": scripted("two").path}
    with reloadable(tmp_path, models={"one": one, "two": two}) as each:
        before = each.pids()
        each.reload("changed: restarted one", models={"one": one | {"prompt": "Hm."}, "two": two})
        assert len(each.pids() & before) == 1
        scripted("two", default={"reply": "another file"})
        each.reload("changed: restarted two", models={"one": one | {"prompt": "Hm."}, "two": two})
        assert not each.pids() & before
        assert each.chat(model="two")["message"] == "another file"


def test_keys_change_at_once(scripted: Scripted, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("old\n")
    keys.chmod(0o600)
    settings = {"models": {"one": scripted().path}, "api_key_file": str(keys)}
    with reloadable(tmp_path, **settings) as each:

        def status(key: str) -> int:
            header = {"Authorization": f"Bearer {key}"}
            return each.server.get("/v1/models", headers=header).status_code

        assert (status("old"), status("new")) == (200, 401)
        before = each.pids()
        keys.write_text("new\n")
        said = each.reload("changed: keys in", **settings)
        assert (status("old"), status("new")) == (401, 200)
        keys.write_text("# no key\n")
        each.reload("holds no key", **settings)
        assert (status("old"), status("new")) == (401, 200)
        assert each.pids() == before
        assert "new" not in said


def test_settings_of_requests_change_and_of_the_socket_do_not(
    scripted: Scripted, tmp_path: Path
) -> None:
    models = {"one": scripted().path}
    with reloadable(tmp_path, models=models) as each:
        said = each.reload("changed: max_body_bytes", models=models, max_body_bytes=2048, backlog=7)
        assert "backlog: it takes a new start to change this" in said
        assert each.server.post("/chat", {"prompt": "x" * 4000}).status_code == 413
        assert each.chat()["message"] == "You said: Hi"


def test_a_model_that_cannot_be_loaded_leaves_the_others(
    scripted: Scripted, tmp_path: Path
) -> None:
    one = scripted("one").path
    bad = scripted("bad", load_fault={"kind": "error", "message": "no such architecture"})
    with reloadable(tmp_path, models={"one": one}) as each:
        said = each.reload("could not be loaded: bad", models={"one": one, "bad": bad.path})
        assert "model bad failed: no such architecture" in said
        assert each.chat()["message"] == "You said: Hi"
        refused = each.server.post("/chat", {"prompt": "Hi", "model": "bad"})
        assert refused.status_code == 503
        assert "it stays so until it is started again" in refused.json()["error"]["message"]
        scripted("bad")
        models = {"one": one, "bad": bad.path}
        each.reload("changed: restarted bad", models=models)
        assert each.chat(model="bad")["message"] == "You said: Hi"
        wrong = {"model": bad.path, "prompt": "Hm.", "context_length": 1}
        each.reload("goes on as it was: bad", models=models | {"bad": wrong})
        assert each.chat(model="bad")["message"] == "You said: Hi"


def test_a_signal_while_models_load_is_heeded_after(scripted: Scripted, tmp_path: Path) -> None:
    slow = scripted("slow", load_seconds=1).path
    write(tmp_path, models={"slow": slow})
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [*COMMAND, "start", str(tmp_path / "serve.json"), "--port", "0"],
            stdout=subprocess.PIPE, stderr=log, text=True,
        )  # fmt: skip
        try:
            wait_until(lambda: runners(process.pid))
            write(tmp_path, models={"slow": slow}, temperature=0.2)
            process.send_signal(signal.SIGHUP)
            assert process.stdout is not None
            server = ServerProcess(process, json.loads(process.stdout.readline()))
            each = Reloadable(tmp_path, server)
            each.logged("changed: other request defaults for slow")
            assert each.chat()["configuration"]["temperature"] == 0.2
            process.terminate()
            assert process.wait(30) == 0
        finally:
            process.kill()
            process.communicate()


def test_a_stop_during_a_reload_leaves_nothing(scripted: Scripted, tmp_path: Path) -> None:
    one, slow = scripted("one").path, scripted("slow", load_seconds=60).path
    with reloadable(tmp_path, models={"one": one}) as each:
        write(tmp_path, models={"one": one, "slow": slow})
        each.server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: len(each.pids()) == 2)
        children = psutil.Process(each.server.process.pid).children(recursive=True)
        each.server.process.terminate()
        assert each.server.process.wait(30) == 0
        assert not alive_after(children)


def test_a_file_that_gives_nothing_holds_nobody_up(scripted: Scripted, tmp_path: Path) -> None:
    with reloadable(tmp_path, models={"one": scripted().path}) as each:
        (tmp_path / "serve.json").unlink()
        os.mkfifo(tmp_path / "serve.json")  # Whoever opens it waits for a writer.
        each.server.process.send_signal(signal.SIGHUP)
        time.sleep(0.5)  # Time to do wrong.
        assert each.chat()["message"] == "You said: Hi"
        each.server.process.terminate()
        assert each.server.process.wait(30) == 0


def test_a_closed_terminal_ends_the_server(scripted: Scripted, tmp_path: Path) -> None:
    """The terminal's end is told by the same signal, and nobody would be left to stop it."""
    master, slave = pty.openpty()
    code = (
        "import fcntl, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
        "from openllm.cli import main; main(prog_name='openllm')"
    )
    process = subprocess.Popen(
        [COMMAND[0], "-c", code, "start", scripted().path, "--port", "0"],
        stdin=slave, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        start_new_session=True,
    )  # fmt: skip
    os.close(slave)
    try:
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["ready"]
        process.send_signal(signal.SIGHUP)
        time.sleep(1)
        assert httpx2.get(url + "/livez", timeout=60).status_code == 200
        children = psutil.Process(process.pid).children(recursive=True)
        os.close(master)
        assert process.wait(30) == 0
        assert not alive_after(children)
    finally:
        process.kill()
        process.communicate()


def test_a_new_model_is_downloaded(
    scripted: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "store"))
    one = scripted("one").path
    with HubServer({"org/tiny": {"demo-q8_0.gguf": GGUF}}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        with reloadable(tmp_path, models={"one": one}) as each:
            before = each.pids()
            said = each.reload("changed: timeout", models={"two": "org/none"}, timeout=60)
            assert "the models stay as they were: " in said
            assert "org/none" in said
            assert (each.models(), each.pids()) == (["one"], before)
            models = {"one": one, "two": "org/tiny"}
            each.reload("changed: added two", models=models, timeout=60)
            body = {"model": "two", "prompt": "Once", "max_tokens": 2}
            answer = each.server.post("/v1/completions", body).json()
            assert answer["usage"]["completion_tokens"] == 2
            assert before < each.pids()
            asked = len(hub.requests)
            before = each.pids()
            each.reload("changed: nothing", models=models, timeout=60)
            assert (len(hub.requests), each.pids()) == (asked, before)
