"""LoRA adapters from a hub or a URL: fetched once, kept, and refused before their model comes."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import openllm
from openllm.config.download import DownloadOptions
from openllm.config.model import LoadOptions
from openllm.errors import (
    ConfigurationError,
    ModelFetchError,
    ModelFileError,
    ModelNotFoundError,
    OpenLLMError,
)
from openllm.llm.ahead import engine_ahead
from openllm.llm.model_files import fetch_files, find_files, keep
from openllm.models.pull import Progress
from openllm.models.ref import parse_ref
from openllm.models.store import remove_unused, stored, verify
from openllm.types import LocalModel
from tests.hub_server import HubServer, use_hub
from tests.lora import matrices, write_gguf, write_peft
from tools.llama_gguf import LlamaShape

DEMO = Path(openllm.__file__).parent / "demo" / "safetensors"
CONTENT = {file.name: file.read_bytes() for file in DEMO.iterdir() if file.is_file()}
LORA = matrices(LlamaShape.from_config_json(DEMO / "config.json").tensor_shapes(), 1)
WEIGHTS = "model.safetensors"
PROMPT = "Once upon a time"


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "sql.gguf", LORA)


@pytest.fixture(scope="module")
def served(gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    """A hub with a model and its adapters, and what is none."""
    folder = write_peft(tmp_path_factory.mktemp("adapters") / "peft", LORA)
    peft = {file.name: file.read_bytes() for file in folder.iterdir()}
    config, weights = peft["adapter_config.json"], peft["adapter_model.safetensors"]
    other = {"README.md": b"x", "handler.py": b"x", "training_args.bin": b"x"}
    dora = config.replace(b'"none"', b'"none", "use_dora": true')
    with HubServer() as hub:
        hub.add_repo("org/model", CONTENT)
        hub.add_repo("org/sql", peft | other)
        hub.add_repo("org/sql", peft | {"README.md": b"v2"}, "v2")
        hub.add_repo("org/gguf", {"sql.gguf": gguf.read_bytes(), "sql-F16.gguf": gguf.read_bytes()})
        hub.add_repo("org/pickled", {"adapter_config.json": config, "adapter_model.bin": b"x"})
        hub.add_repo("org/dora", {**peft, "adapter_config.json": dora})
        hub.add_repo("org/cut", {**peft, "adapter_model.safetensors": weights[:-1]})
        hub.add_file("files/sql.gguf", gguf.read_bytes())
        yield hub


@pytest.fixture
def hub(served: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HubServer:
    for room in ("choice", "source"):
        monkeypatch.setattr(f"openllm.llm.{room}.check_installed", lambda name: None)
    use_hub(served.url, tmp_path, monkeypatch)
    served.reset_counts()
    return served


def said(llm: openllm.LLM) -> str:
    options = {"max_new_tokens": 12, "temperature": 0, "adapter": "sql"}
    return llm.sync_generate(PROMPT, **options).outputs[0].text


def fetch(*lora: str, model: str = "org/model", **options: Any) -> LocalModel:
    load = LoadOptions(backend="torch", lora=lora)
    return fetch_files(parse_ref(model), load, DownloadOptions(**options))


def find(*lora: str, model: str = "org/model") -> LocalModel | None:
    return find_files(parse_ref(model), LoadOptions(backend="torch", lora=lora))


def test_an_adapter_is_fetched_once_and_nothing_beside_it(hub: HubServer) -> None:
    model = fetch("sql=org/sql")
    (adapter,) = model.adapters
    assert (adapter.name, adapter.format) == ("sql", "safetensors")
    assert adapter.scales.keys() == LORA.keys()
    names = {file.name for file in Path(adapter.path).iterdir()}
    assert names == {"adapter_config.json", "adapter_model.safetensors", "model.yaml"}
    tags = {each.source: each.tag for each in stored()}
    assert tags == {"org/sql": adapter.tag, "org/model": model.tag}
    assert adapter.tag.startswith("adapter-org--sql")
    assert verify(adapter.tag) == ()
    files = [one.path.rpartition("/")[2] for one in hub.requests]
    assert files.index("adapter_model.safetensors") < files.index(WEIGHTS)
    hub.reset_counts()
    assert find("sql=org/sql") == fetch("sql=org/sql", offline=True) == model
    assert find("other=org/sql@main") is not None
    assert hub.requests == []


def test_an_adapter_for_a_model_on_this_machine(hub: HubServer) -> None:
    assert find("sql=org/sql", model=str(DEMO)) is None
    model = fetch("sql=org/sql", model=str(DEMO))
    assert [each.source for each in stored()] == ["org/sql"]
    assert find("sql=org/sql", model=str(DEMO)) == model


def test_a_revision_of_an_adapter(hub: HubServer) -> None:
    refs = hub.repos["org/sql"].refs
    model = fetch("a=org/sql", "b=org/sql@v2", f"c=org/sql@{refs['v2']}")
    versions = [each.tag.partition(":")[2] for each in model.adapters]
    assert versions == [refs["main"], refs["v2"], refs["v2"]]


@pytest.mark.spec("S0-27")
@pytest.mark.parametrize("source", ["org/gguf:sql.gguf", "org/gguf:F16", "{}/files/sql.gguf?a=b"])
def test_a_gguf_file_serves_as_that_of_this_machine(
    hub: HubServer, gguf: Path, source: str
) -> None:
    source = source.format(hub.url)
    with openllm.LLM("demo", lora={"sql": gguf}) as llm:
        expected = said(llm)
    with openllm.LLM("demo", lora={"sql": source}) as llm:
        assert said(llm) == expected
    hub.reset_counts()
    with openllm.LLM("demo", lora={"sql": source}, offline=True) as llm:
        assert said(llm) == expected
    assert hub.requests == []


@pytest.mark.parametrize(
    ("source", "kind", "says"),
    [
        ("org/model", ConfigurationError, "org/model has no adapter_config.json, so it is no LoRA"),
        ("org/gguf", ConfigurationError, "name it:\n  org/gguf:sql-F16.gguf\n  org/gguf:sql.gguf"),
        ("org/pickled", ConfigurationError, "adapter_model.bin is a pickle, which can run code"),
        ("org/nothing", ModelNotFoundError, "org/nothing"),
        ("org/sql@v3", ModelNotFoundError, "v3"),
        ("org/gguf:other.gguf", ModelNotFoundError, "org/gguf has no GGUF file 'other.gguf'"),
        ("org/gguf:sql.gguf", ConfigurationError, "not for torch, which takes a folder or a"),
    ],
)
def test_what_is_no_adapter_costs_no_download(
    hub: HubServer, source: str, kind: type[OpenLLMError], says: str
) -> None:
    with (
        pytest.raises(kind) as caught,
        openllm.LLM("org/model", backend="torch", lora={"sql": source}),
    ):
        raise AssertionError("it was loaded")
    assert says in caught.value.message
    assert f"sql={source}" in caught.value.message
    assert not hub.asked("adapter_model")
    assert not hub.asked(f"/{WEIGHTS}")
    assert stored() == ()


@pytest.mark.reliability("F-13")
@pytest.mark.parametrize(
    ("source", "says"),
    [("org/dora", "has use_dora 'True', which is not supported"), ("org/cut", "is truncated")],
)
def test_what_is_wrong_with_an_adapter_is_told_before_the_model_comes(
    hub: HubServer, source: str, says: str
) -> None:
    for function in (fetch, find):
        with pytest.raises(ConfigurationError) as caught:
            function(f"sql={source}")
        assert caught.value.param == "lora"
        assert caught.value.message.startswith(f"lora 'sql={source}': ")
        assert says in caught.value.message
        assert f"openllm verify adapter-org--{source[4:]}" in caught.value.message
    assert not hub.asked(f"/{WEIGHTS}")


def test_offline_it_says_what_fetches_it(hub: HubServer) -> None:
    with pytest.raises(ConfigurationError) as caught:
        fetch("sql=org/sql", model=str(DEMO), offline=True)
    assert caught.value.param == "offline"
    assert caught.value.message.endswith("openllm pull MODEL --lora sql=org/sql")
    assert hub.requests == []


def test_the_hash_of_weights_is_no_matter_of_an_adapter(hub: HubServer) -> None:
    right = hashlib.sha256(CONTENT[WEIGHTS]).hexdigest()
    assert fetch("sql=org/sql", sha256=right).adapters
    for each in stored():
        assert remove_unused(each)
    with pytest.raises(ModelFileError, match=r"model.safetensors has the sha256"):
        fetch("sql=org/sql", sha256="0" * 64)


def test_tokens_reach_a_private_adapter(hub: HubServer) -> None:
    hub.repos["org/sql"].private = True
    try:
        with pytest.raises(OpenLLMError, match="lora 'sql=org/sql'"):
            fetch("sql=org/sql", model=str(DEMO))
        assert fetch("sql=org/sql", model=str(DEMO), hub_token="hf_good").adapters
    finally:
        hub.repos["org/sql"].private = False


def test_progress_and_cancellation(hub: HubServer) -> None:
    seen: list[tuple[str, str]] = []
    load = LoadOptions(backend="torch", lora=("sql=org/sql",))
    cancelled = threading.Event()

    def on_progress(progress: Progress) -> None:
        seen.append((progress.source, progress.phase))
        cancelled.set()

    with pytest.raises(ModelFetchError):
        fetch_files(parse_ref(str(DEMO)), load, on_progress=on_progress, cancelled=cancelled)
    assert ("org/sql", "listing") in seen
    assert stored() == ()


def test_a_look_at_adapters_can_be_ended(hub: HubServer) -> None:
    load = LoadOptions(backend="torch", lora=("sql=org/sql",))
    look = partial(engine_ahead, parse_ref(str(DEMO)), load, DownloadOptions())
    ended = threading.Event()
    assert look(ended) == "torch"
    ended.set()
    with pytest.raises(ModelFetchError, match="lora 'sql=org/sql'"):
        look(ended)


def test_an_adapter_in_use_is_kept(hub: HubServer) -> None:
    model = fetch("sql=org/sql", model=str(DEMO))
    (kept,) = stored()
    with keep(model):
        assert not remove_unused(kept)
    assert remove_unused(kept)


def test_its_use_is_recorded(hub: HubServer) -> None:
    fetch("sql=org/sql", model=str(DEMO))
    os.utime(Path(stored()[0].folder, "model.yaml"), (0, 0))
    assert stored()[0].used.year == 1970
    fetch("sql=org/sql", model=str(DEMO))
    assert stored()[0].used.year > 1970


def test_model_and_adapter_make_no_room_for_each_other(hub: HubServer) -> None:
    with pytest.raises(ModelFetchError, match=r"org/model needs .*--store-quota"):
        fetch("sql=org/sql", store_quota=sum(map(len, CONTENT.values())))
    assert [model.source for model in stored()] == ["org/sql"]
