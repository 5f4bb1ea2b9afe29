"""What beside a whole model may be wanted: no weights, and a tokenizer from elsewhere."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
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
)
from openllm.llm.chat_engine import ChatEngine
from openllm.llm.choice import choose_engine
from openllm.llm.fetching import local_model
from openllm.llm.model_files import fetch_files, find_files
from openllm.llm.templates import text_rules
from openllm.models.ref import parse_ref
from openllm.models.store import remove, remove_unused, stored, verify
from openllm.types import LocalModel
from tests.hub_server import HubServer, use_hub
from tests.unit.model_folders import make_folder, write

DEMO = Path(openllm.__file__).parent / "demo" / "safetensors"
CONTENT = {file.name: file.read_bytes() for file in DEMO.iterdir() if file.is_file()}
WEIGHTS = "model.safetensors"


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openllm.llm.choice.check_installed", lambda name: None)


@pytest.fixture(scope="module")
def served() -> Iterator[HubServer]:
    with HubServer() as hub:
        yield hub


@pytest.fixture
def hub(served: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HubServer:
    """A hub with a model, and one whose branch `v2` has another chat template."""
    served.add_repo("org/model", CONTENT)
    served.add_repo("org/words", CONTENT)
    served.add_repo("org/words", CONTENT | {"chat_template.jinja": b"v2 {{ messages }}"}, "v2")
    served.add_repo("org/nothing", {"README.md": b"x", "a.bin": b"x"})
    use_hub(served.url, tmp_path, monkeypatch)
    served.reset_counts()
    return served


def fetch(text: str, **options: Any) -> LocalModel:
    load = LoadOptions.model_validate({"backend": "torch"} | options)
    return fetch_files(parse_ref(text), load, DownloadOptions())


def find(text: str, **options: Any) -> LocalModel | None:
    return find_files(parse_ref(text), LoadOptions.model_validate({"backend": "torch"} | options))


def files_of(model: LocalModel) -> set[str]:
    return {file.name for file in Path(model.path).iterdir()} - {"model.yaml"}


@pytest.fixture
def folder(tmp_path: Path) -> str:
    (tmp_path / "mine").mkdir()
    return make_folder(tmp_path / "mine", {"architectures": ["LlamaForCausalLM"]})


@pytest.mark.spec("S2-20")
def test_a_tokenizer_comes_without_weights_and_once(hub: HubServer, folder: str) -> None:
    assert find(folder, tokenizer="org/words") is None
    model = fetch(folder, tokenizer="org/words")
    assert model.path == folder
    assert model.tokenizer is not None
    assert model.tokenizer.revision == hub.repos["org/words"].refs["main"]
    assert files_of(model.tokenizer) == set(CONTENT) - {WEIGHTS}
    assert not hub.asked(WEIGHTS)
    (kept,) = stored()
    assert kept.tag == model.tokenizer.tag
    assert verify(kept.tag) == ()
    hub.reset_counts()
    assert find(folder, tokenizer="org/words") == fetch(folder, tokenizer="org/words") == model
    assert hub.requests == []


@pytest.mark.spec("S2-20")
def test_the_template_is_that_of_the_tokenizer(hub: HubServer, folder: str) -> None:
    assert text_rules(fetch(folder)).template is None
    rules = text_rules(fetch(folder, tokenizer="org/words"))
    assert rules.template is not None
    assert rules.eos == "<|im_end|>"


@pytest.mark.spec("S2-21")
def test_a_revision_of_the_tokenizer(hub: HubServer, folder: str) -> None:
    commits = hub.repos["org/words"].refs
    for options in (
        {"tokenizer": "org/words", "tokenizer_revision": "v2"},
        {"tokenizer": "org/words@v2"},
        {"tokenizer": "org/words", "tokenizer_revision": commits["v2"]},
    ):
        found = fetch(folder, **options).tokenizer
        assert found is not None
        assert found.revision == commits["v2"]
        assert Path(found.path, "chat_template.jinja").read_bytes().startswith(b"v2")
    own = fetch("org/words", tokenizer_revision="v2")
    assert own.tokenizer is not None
    assert (own.revision, own.tokenizer.revision) == (commits["main"], commits["v2"])
    assert find("org/words", tokenizer_revision="v2") == own


def test_a_whole_model_that_is_here_has_the_tokenizer_too(hub: HubServer, folder: str) -> None:
    whole = local_model("org/words", backend="torch")
    hub.reset_counts()
    assert fetch(folder, tokenizer="org/words").tokenizer == whole
    assert hub.requests == []


def test_what_has_no_weights_is_no_model(hub: HubServer, folder: str) -> None:
    fetch(folder, tokenizer="org/model")
    assert find("org/model") is None
    model = fetch("org/model")
    assert hub.asked(WEIGHTS)
    assert WEIGHTS in files_of(model)
    assert find("org/model") == model


@pytest.mark.spec("S2-20")
def test_a_tokenizer_in_a_folder(folder: str, tmp_path: Path) -> None:
    words = tmp_path / "words"
    shutil.copytree(DEMO, words)
    (words / WEIGHTS).unlink()
    model = fetch(folder, tokenizer=str(words))
    assert model.tokenizer is not None
    assert model.tokenizer.path == str(words)
    (words / "config.json").unlink()
    assert text_rules(model).template is not None


@pytest.mark.parametrize(
    ("options", "said", "param"),
    [
        ({"tokenizer": "https://h/x.gguf"}, "is a GGUF file", "tokenizer"),
        ({"tokenizer": "org/a:Q4_K_M"}, "is a GGUF file", "tokenizer"),
        ({"tokenizer": "./x.gguf"}, "is a GGUF file", "tokenizer"),
        ({"tokenizer": "no-such-name"}, "'no-such-name' is no tokenizer", "tokenizer"),
        ({"tokenizer": "org/a@b", "tokenizer_revision": "c"}, "both give", "tokenizer_revision"),
        ({"tokenizer": "./x", "tokenizer_revision": "c"}, "is a folder", "tokenizer_revision"),
        ({"tokenizer_revision": "c"}, "is a folder", "tokenizer_revision"),
        ({"tokenizer": "org/a", "tokenizer_revision": "../c"}, "no valid revision", None),
    ],
)
def test_what_no_tokenizer_can_be_is_said_at_once(
    hub: HubServer, folder: str, options: dict[str, str], said: str, param: str | None
) -> None:
    for function in (find, fetch):
        with pytest.raises(ConfigurationError, match=said) as caught:
            function(folder, **options)
        assert caught.value.param == param
    assert hub.requests == []


def test_a_repository_without_a_tokenizer(hub: HubServer, folder: str) -> None:
    with pytest.raises(ModelFileError, match="org/nothing has neither"):
        fetch(folder, tokenizer="org/nothing")
    with pytest.raises(ModelNotFoundError, match="org/no"):
        fetch(folder, tokenizer="org/no")
    assert stored() == ()


def test_a_folder_without_a_tokenizer(folder: str, tmp_path: Path) -> None:
    for path, said in ((folder, "tokenizer_config.json does not exist"), ("/no", "does not exist")):
        model = fetch(folder, tokenizer=path)
        with pytest.raises(ModelFileError, match=said):
            choose_engine(model, LoadOptions(backend="torch"))


@pytest.mark.spec("S2-18")
@pytest.mark.reliability("S-22")
def test_code_of_a_tokenizer_is_refused(folder: str, tmp_path: Path) -> None:
    words = tmp_path / "words"
    words.mkdir()
    canary = tmp_path / "canary"
    (words / "own.py").write_text(f"open({str(canary)!r}, 'w')\nclass Own: pass\n")
    write(words / "tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["own.Own", None]}})
    model = fetch(folder, tokenizer=str(words))
    with pytest.raises(ModelFileError, match="trust_remote_code"):
        choose_engine(model, LoadOptions(backend="torch"))
    choose_engine(model, LoadOptions(backend="torch", trust_remote_code=True))
    assert not canary.exists()


@pytest.mark.spec("S2-22")
def test_a_dummy_is_fetched_without_weights(hub: HubServer) -> None:
    assert find("org/model", load_format="dummy") is None
    model = fetch("org/model", load_format="dummy")
    assert files_of(model) == set(CONTENT) - {WEIGHTS}
    assert not hub.asked(WEIGHTS)
    assert (model.name, model.format) == ("model", "safetensors")
    choose_engine(model, LoadOptions(backend="torch", load_format="dummy"))
    hub.reset_counts()
    assert find("org/model", load_format="dummy") == fetch("org/model", load_format="dummy")
    assert hub.requests == []
    whole = fetch("org/model")
    assert find("org/model", load_format="dummy") == whole


@pytest.mark.spec("S2-22")
def test_only_a_dummy_needs_no_weights(tmp_path: Path) -> None:
    config = json.loads(CONTENT["config.json"])
    model = fetch(make_folder(tmp_path, config, weights=False), load_format="dummy")
    for load_format in ("auto", "safetensors"):
        options = LoadOptions.model_validate({"backend": "torch", "load_format": load_format})
        with pytest.raises(ModelFileError, match=r"model.safetensors does not exist"):
            choose_engine(model, options)
    dummy = LoadOptions(backend="torch", load_format="dummy")
    with pytest.raises(ModelFileError, match=r"tokenizer.json does not exist"):
        choose_engine(model, dummy)
    (tmp_path / "tokenizer.json").write_text("{}")
    choose_engine(model, dummy)


def test_the_hash_of_weights_is_no_matter_of_a_tokenizer(hub: HubServer) -> None:
    load = LoadOptions(backend="torch", tokenizer="org/words")
    right = hashlib.sha256(CONTENT[WEIGHTS]).hexdigest()
    model = fetch_files(parse_ref("org/model"), load, DownloadOptions(sha256=right))
    assert model.tokenizer is not None


def test_model_and_tokenizer_make_no_room_for_each_other(hub: HubServer, folder: str) -> None:
    load = LoadOptions(backend="torch", tokenizer="org/words")
    whole = DownloadOptions(store_quota=sum(map(len, CONTENT.values())))
    with pytest.raises(ModelFetchError, match=r"org/words needs .*--store-quota"):
        fetch_files(parse_ref("org/model"), load, whole)
    assert [model.source for model in stored()] == ["org/model"]
    remove(stored()[0].tag)
    fetch(folder, tokenizer="org/words")
    with pytest.raises(ModelFetchError, match=r"org/model needs .*--store-quota"):
        fetch_files(parse_ref("org/model"), load, whole)
    assert [model.source for model in stored()] == ["org/words"]


@pytest.fixture
def script(tmp_path: Path) -> str:
    path = tmp_path / "test.script.json"
    write(path, {"default": {"reply": "yes"}})
    return str(path)


@pytest.mark.anyio
async def test_a_tokenizer_in_use_is_kept(hub: HubServer, folder: str, script: str) -> None:
    words = fetch(folder, tokenizer="org/words").tokenizer
    assert words is not None
    (kept,) = stored()
    model = LocalModel(name="test", path=script, format="script", tokenizer=words)
    engine = ChatEngine(model)
    await engine.start()
    assert engine.eos == "<|im_end|>"
    assert not remove_unused(kept)
    await engine.close()
    assert remove_unused(kept)
