"""From a name to an answer, through a hub on loopback: fetched once, then found without it."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

import openllm
from openllm.bento.options import read_configuration
from openllm.config.download import DownloadOptions
from openllm.errors import (
    ConfigurationError,
    EngineNotInstalledError,
    EngineUnavailableError,
    ModelNotFoundError,
)
from openllm.llm.fetching import known_ref, local_model
from openllm.models.registry import Registry
from openllm.models.store import find_tag, stored
from openllm.types import LocalModel
from tests.hub_server import HubServer, use_hub
from tests.waiting import until, wait_until

DEMO = Path(openllm.__file__).parent / "demo"
GGUF = (DEMO / "demo-q8_0.gguf").read_bytes()


@pytest.fixture(scope="module")
def served() -> Iterator[HubServer]:
    with HubServer() as hub:
        yield hub


@pytest.fixture
def hub(served: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HubServer:
    """The hub of this process: one GGUF file, several of them, a folder, and a file elsewhere."""
    served.add_repo("Org/Tiny", {"demo-q8_0.gguf": GGUF, "README.md": b"x"})
    served.add_repo("Org/Tiny", {"demo-q8_0.gguf": GGUF, "README.md": b"x"}, "v1")
    served.add_repo("org/many", {"d/a-Q8_0.gguf": GGUF, "d/a-Q4_0.gguf": b"GGUF" + bytes(9)})
    served.add_repo("org/folder", DEMO / "safetensors")
    use_hub(served.url, tmp_path, monkeypatch)
    served.reset_counts()
    return served


@pytest.mark.anyio
@pytest.mark.spec("S1-40")
async def test_an_id_is_downloaded_by_the_first_use_and_then_is_there(hub: HubServer) -> None:
    llm = openllm.LLM("Org/Tiny", max_new_tokens=2, temperature=0.0)
    assert (llm.name, llm.backend) == ("Tiny", None)
    assert hub.requests == []
    first, second = await asyncio.gather(llm.generate("Once"), llm.generate("Once"))
    assert first.outputs[0].text == second.outputs[0].text != ""
    assert len(GGUF) <= hub.body_bytes <= 1.05 * len(GGUF)
    commit = hub.repos["Org/Tiny"].refs["main"]
    assert (llm.backend, llm.tag) == ("llamacpp", f"llamacpp-org--tiny:{commit}")
    await llm.close()
    hub.reset_counts()
    for name in ("Org/Tiny", "org/tiny@main", f"Org/Tiny@{commit}", f"Org/Tiny@{commit[:9]}"):
        again = openllm.LLM(name, max_new_tokens=2, temperature=0.0)
        assert (again.backend, again.tag) == ("llamacpp", llm.tag)
    answer = await again.generate("Once")
    assert answer.outputs[0].text == first.outputs[0].text
    await again.close()
    assert hub.requests == []


def test_a_tag_of_a_commit_that_is_here_is_looked_up_once(hub: HubServer) -> None:
    main = local_model("Org/Tiny")
    hub.reset_counts()
    tagged = local_model("Org/Tiny@v1")
    assert tagged.tag == main.tag
    assert hub.body_bytes == 0
    hub.reset_counts()
    assert local_model("Org/Tiny@v1").tag == main.tag
    assert hub.requests == []


@pytest.mark.spec("S3-09")
def test_a_url_is_stored_under_its_files_name(hub: HubServer) -> None:
    url = hub.add_file("files/My%20Model.gguf".replace("%20", "-"), GGUF)
    model = local_model(url)
    assert model.name == "My-Model"
    assert model.tag.startswith("llamacpp-my-model:")
    assert (model.source, model.format) == (url, "gguf")
    hub.reset_counts()
    assert local_model(f"mine={url}") == renamed(model, "mine")
    assert hub.requests == []


def renamed(model: LocalModel, name: str) -> LocalModel:
    return replace(model, name=name)


@pytest.mark.parametrize("text", ["org/many:Q8_0", "org/many:d/a-Q8_0.gguf"])
def test_one_file_of_many(hub: HubServer, text: str) -> None:
    model = local_model(text)
    assert model.path.endswith("/d/a-Q8_0.gguf")
    assert hub.body_bytes <= 1.05 * len(GGUF)
    hub.reset_counts()
    for same in ("org/many:Q8_0", "org/many@main:d/a-Q8_0.gguf"):
        assert local_model(same) == model
    assert hub.requests == []
    with pytest.raises(ModelNotFoundError, match="no GGUF file 'Q2_K'"):
        local_model("org/many:Q2_K")


def test_what_cannot_run_here_is_not_downloaded(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("openllm.engines.find_spec", lambda name: None)
    monkeypatch.setattr("openllm.engines.vllm_presence.find_spec", lambda name: None)
    with pytest.raises(EngineNotInstalledError, match=r"open-llm-server\[torch\]"):
        local_model("org/folder")
    assert not hub.asked("model.safetensors")
    assert stored() == ()


def test_a_folder_is_kept_for_each_engine_without_a_copy(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("openllm.llm.choice.check_installed", lambda name: None)
    model = local_model("org/folder", backend="pt")
    assert model.tag.startswith("pt-org--folder:")
    assert model.format == "safetensors"
    hub.reset_counts()
    other = local_model("org/folder", backend="vllm")
    assert hub.requests == []
    assert other.tag == model.tag.replace("pt-", "vllm-", 1)
    weights = [Path(each.path, "model.safetensors").stat().st_ino for each in (model, other)]
    assert weights[0] == weights[1]


@pytest.mark.spec("S0-07")
def test_a_list_is_checked_before_its_first_download(hub: HubServer) -> None:
    for text in (
        "Org/Tiny,lama",
        "Org/Tiny,tiny=demo,Tiny=demo",
        "Org/Tiny,,demo",
        "Org/Tiny,./x.gguf",
    ):
        with pytest.raises(ConfigurationError):
            read_configuration(text, {}, {})
    assert hub.requests == []
    registry = Registry()
    registry.add_model("own", "Org/Tiny@v1")
    refs = [known_ref(text, registry) for text in ("own", "two=Org/Tiny@v1")]
    models = [local_model(ref, registry=registry) for ref in refs]
    assert [model.name for model in models] == ["own", "two"]
    assert models[0].path == models[1].path


def test_offline_nothing_is_asked(hub: HubServer) -> None:
    offline = DownloadOptions(offline=True)
    with pytest.raises(ConfigurationError, match="openllm pull Org/Tiny"):
        local_model("Org/Tiny", offline)
    assert hub.requests == []
    local_model("Org/Tiny")
    hub.reset_counts()
    model = local_model("Org/Tiny", offline)
    assert find_tag(model.tag) is not None
    llm = openllm.LLM("Org/Tiny", download=offline, max_new_tokens=1)
    assert llm.sync_generate("Once").finished
    llm.sync_close()
    assert hub.requests == []


LEAVING = {
    "Ctrl-C": "llm.sync_generate('hi')",
    "cancelled": """
async def leave():
    task = asyncio.create_task(llm.generate('hi'))
    await asyncio.to_thread(sys.stdin.readline)
    task.cancel()
    await asyncio.wait([task])
asyncio.run(leave())
""",
}


@pytest.mark.parametrize("how", LEAVING)
def test_a_script_that_is_done_does_not_wait_for_a_download(hub: HubServer, how: str) -> None:
    hub.faults.stall_after = 1 << 16
    source = f"import asyncio, sys, openllm\nllm = openllm.LLM('Org/Tiny')\n{LEAVING[how]}"
    command = [sys.executable, "-c", source]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stderr=pipe, text=True) as script:
        try:
            wait_until(lambda: hub.body_bytes, 60)
            if how == "Ctrl-C":
                script.send_signal(signal.SIGINT)
            _, told = script.communicate("\n", timeout=30)
        finally:
            script.kill()
            hub.faults.clear()
    if how == "Ctrl-C":
        assert told.endswith("KeyboardInterrupt\n")
        assert script.returncode == -signal.SIGINT
    else:
        assert (told, script.returncode) == ("", 0)


@pytest.mark.anyio
async def test_closing_ends_a_download_and_tells_who_waited(hub: HubServer) -> None:
    hub.faults.stall_after = 1 << 16
    llm = openllm.LLM("Org/Tiny", max_new_tokens=1)
    try:
        other = asyncio.create_task(asyncio.to_thread(llm.sync_generate, "hi"))
        await until(lambda: hub.body_bytes)
        answer = asyncio.create_task(llm.generate("hi"))
        await asyncio.sleep(0)
        await llm.close()
        for each in (answer, other):
            with pytest.raises(EngineUnavailableError, match="'Tiny' was closed while it was"):
                await each
    finally:
        hub.faults.clear()
    assert (await llm.generate("hi")).finished
    await llm.close()
