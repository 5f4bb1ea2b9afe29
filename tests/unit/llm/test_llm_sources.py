"""LLMs of hub ids, URLs and families: found in the store, or downloaded by their first use."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import threading
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import openllm
from openllm.config.model import LoadOptions
from openllm.errors import ConfigurationError, EngineNotInstalledError
from openllm.llm.fetching import for_engine, framework_of
from openllm.llm.source import ModelSource
from openllm.models.families import families
from openllm.models.locate import find_local
from openllm.models.ref import ModelRef, parse_ref
from openllm.models.store import ModelRecord, StoredFile, StoredModel, add, find_tag, remove
from openllm.models.store import stored as all_stored
from openllm.models.store_names import meant_by
from openllm.models.tags import stored_name

DEMO = Path(openllm.__file__).parent / "demo"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Stands in for the download: puts the demo model into the store and counts."""

    def __init__(self) -> None:
        self.pulled: list[str] = []
        self.threads: set[threading.Thread] = set()

    def pull(
        self, ref: ModelRef, options: Any, *, framework: Any, on_progress: Any, cancelled: Any
    ) -> StoredModel:
        self.pulled.append(str(ref))
        self.threads.add(threading.current_thread())
        name = stored_name(framework("", "gguf"), ref.origin, ref.file)
        return stored(name, ref.origin, file=ref.file, refs=(ref.revision,))


def stored(name: str, source: str, **fields: Any) -> StoredModel:
    folder = Path(os.environ["BENTOML_HOME"], "staged")
    folder.mkdir(exist_ok=True)
    shutil.copy(DEMO / "demo-q8_0.gguf", folder)  # The store links what it is given.
    file = StoredFile("demo-q8_0.gguf", (DEMO / "demo-q8_0.gguf").stat().st_size)
    version = fields.pop("version", COMMIT)
    known: dict[str, Any] = {"format": "gguf", "revision": COMMIT, "files": (file,)}
    record = ModelRecord(source=source, **known | fields)
    return add(folder, record, name=name, version=version)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def hub(home: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    made = Hub()
    module = SimpleNamespace(pull=made.pull)
    monkeypatch.setitem(sys.modules, "openllm.models.pull", module)
    monkeypatch.setattr("openllm.llm.source.engine_ahead", lambda *_: None)
    return made


@pytest.mark.parametrize(
    ("model_id", "name", "backend"),
    [
        ("org/tiny", "tiny", None),
        ("org/tiny@main:x.gguf", "tiny", "llamacpp"),
        ("https://127.0.0.1:9/x.gguf", "x", "llamacpp"),
        ("flan-t5", "flan-t5", None),
        ("qwen3:0.6b-gguf", "qwen3:0.6b-gguf", "llamacpp"),
        ("mine=org/tiny", "mine", None),
    ],
)
def test_building_downloads_nothing(
    hub: Hub, model_id: str, name: str, backend: str | None
) -> None:
    llm = openllm.LLM(model_id)
    assert (llm.name, llm.backend) == (name, backend)
    assert model_id in repr(llm)
    assert hub.pulled == []


def test_a_backend_that_is_given_is_known_and_checked(hub: Hub) -> None:
    assert openllm.LLM("org/tiny", backend="cpp").backend == "llamacpp"
    with pytest.raises(ConfigurationError, match="no backend 'cuda'"):
        openllm.LLM("org/tiny", backend="cuda")
    with pytest.raises(ConfigurationError, match="Did you mean 'llama'"):
        openllm.LLM("lama")


@pytest.mark.anyio
@pytest.mark.spec("S1-40")
async def test_the_first_use_downloads_in_a_thread_and_only_once(hub: Hub) -> None:
    llm = openllm.LLM("org/tiny@main")
    outputs = await asyncio.gather(*(llm.generate("hi", max_new_tokens=1) for _ in range(3)))
    assert len(outputs) == 3
    assert hub.pulled == ["org/tiny@main"]
    assert hub.threads.isdisjoint({threading.main_thread()})
    assert llm.backend == "llamacpp"
    assert llm.tag == f"llamacpp-org--tiny:{COMMIT}"
    await llm.close()
    again = openllm.LLM("org/tiny@main")
    assert again.backend == "llamacpp"
    await again.generate("hi", max_new_tokens=1)
    await again.close()
    assert hub.pulled == ["org/tiny@main"]


@pytest.mark.spec("S1-40")
def test_the_stored_model_is_present_or_is_downloaded(hub: Hub) -> None:
    llm = openllm.LLM("org/tiny")
    found = model_of(llm)
    assert str(found.tag) == llm.tag == f"llamacpp-org--tiny:{COMMIT}"
    assert Path(found.path, "demo-q8_0.gguf").is_file()
    assert str(model_of(openllm.LLM("org/tiny")).tag) == llm.tag
    assert hub.pulled == ["org/tiny"]


@pytest.mark.spec("S1-40")
def test_a_commit_and_an_engine_are_a_tag_without_a_download(hub: Hub) -> None:
    llm = openllm.LLM(f"Org/Tiny@{COMMIT}", backend="llamacpp")
    assert llm.tag == f"llamacpp-org--tiny:{COMMIT}"
    assert hub.pulled == []


@pytest.mark.spec("S1-42")
@pytest.mark.parametrize(
    ("options", "tag"),
    [
        ({"model_name": "mine"}, f"mine:{COMMIT}"),
        ({"model_version": "2"}, "llamacpp-org--tiny:2"),
        ({"model_tag": "mine:2"}, "mine:2"),
        ({"model_tag": "mine"}, f"mine:{COMMIT}"),
        ({"model_tag": None}, f"llamacpp-org--tiny:{COMMIT}"),
    ],
)
def test_a_chosen_tag_is_what_the_store_has(hub: Hub, options: dict[str, Any], tag: str) -> None:
    llm = openllm.LLM("org/tiny", **options)
    assert str(model_of(llm).tag) == tag
    known = find_tag(tag)
    assert known is not None
    assert (known.source, known.revision) == ("org/tiny", COMMIT)
    original = find_tag("llamacpp-org--tiny")
    assert original is not None
    assert Path(known.path).stat().st_ino == Path(original.path).stat().st_ino
    again = openllm.LLM("org/tiny", **options)
    assert again.backend == "llamacpp"
    assert str(model_of(again).tag) == tag
    assert hub.pulled == ["org/tiny"]


@pytest.mark.spec("S1-40", "S1-42")
@pytest.mark.parametrize(
    "options",
    [{"model_tag": "foo:v1"}, {"model_version": "v1"}, {"model_tag": "llamacpp-foo:v1"}],
)
def test_a_tag_of_the_users_own_does_not_change_the_derived_one(
    hub: Hub, options: dict[str, Any]
) -> None:
    model_of(openllm.LLM("org/tiny@main", **options))
    derived = f"llamacpp-org--tiny:{COMMIT}"
    assert openllm.LLM("org/tiny").tag == derived
    assert openllm.LLM("org/tiny", backend="llamacpp").tag == derived
    for text in ("org/tiny", "org/tiny@main", f"org/tiny@{COMMIT}"):
        local = find_local(parse_ref(text))
        assert local is not None
        assert local.tag == derived
    assert [model.tag for model in meant_by("org/tiny")] == [derived]
    assert len(all_stored()) == 2


@pytest.mark.spec("S1-40")
def test_the_derived_tag_comes_back_where_only_the_users_own_is_left(hub: Hub) -> None:
    model_of(openllm.LLM("org/tiny", model_tag="foo:v1"))
    remove(f"llamacpp-org--tiny:{COMMIT}")
    assert openllm.LLM("org/tiny").tag == f"llamacpp-org--tiny:{COMMIT}"
    assert hub.pulled == ["org/tiny"]


@pytest.mark.spec("S1-42")
def test_a_tag_of_another_model_is_refused(hub: Hub) -> None:
    model_of(openllm.LLM("org/tiny", model_tag="foo:v1"))
    for options in ({"model_tag": "foo:v1"}, {"model_tag": "foo"}, {"model_name": "foo"}):
        with pytest.raises(ConfigurationError, match=f"org/tiny@{COMMIT} under the tag foo:v1"):
            openllm.LLM("org/other", **options)
    with pytest.raises(ConfigurationError, match="not org/tiny@beef0; choose another tag"):
        openllm.LLM("org/tiny@beef0", model_tag="foo:v1")
    with pytest.raises(ConfigurationError, match="not org/tiny:Q4_0; choose another tag"):
        openllm.LLM("org/tiny:Q4_0", model_tag="foo:v1")
    assert openllm.LLM("org/tiny@beef0", model_name="foo").backend is None  # To be downloaded.
    assert openllm.LLM(f"org/tiny@{COMMIT}", model_name="foo").tag == "foo:v1"


@pytest.mark.spec("S1-42")
def test_a_version_that_another_commit_has_is_refused(hub: Hub, home: Path) -> None:
    model_of(openllm.LLM("org/tiny", model_version="2"))
    other = "f" * 40
    size = Path(shutil.copy(DEMO / "demo-q8_0.gguf", home / "staged" / "new.gguf")).stat().st_size
    new = {"version": other, "revision": other, "files": (StoredFile("new.gguf", size),)}
    stored("llamacpp-org--tiny", "org/tiny", **new)
    with pytest.raises(ConfigurationError, match="another model as llamacpp-org--tiny:2"):
        model_of(openllm.LLM(f"org/tiny@{other}", model_version="2"))


@pytest.mark.spec("S1-40")
def test_the_derived_tag_of_a_url_names_its_file_and_its_content(home: Path) -> None:
    url = "http://127.0.0.1:9/demo-q8_0.gguf?token=SECRET"
    mine = stored("foo", url, version="v1", revision="")
    assert openllm.LLM(url).tag == f"llamacpp-demo-q8_0:{mine.files[0].sha256[:16]}"


def test_stored_under_another_engine_its_files_are_linked(home: Path) -> None:
    folder = shutil.copytree(DEMO / "safetensors", home / "staged")
    files = tuple(StoredFile(path.name, path.stat().st_size) for path in folder.iterdir())
    record = ModelRecord(format="safetensors", source="org/tiny", revision=COMMIT, files=files)
    first = add(folder, record, name="pt-org--tiny", version=COMMIT)
    model = find_local(parse_ref("org/tiny"))
    assert model is not None
    assert for_engine(model, "torch") == model
    other = for_engine(model, "vllm")
    assert other.tag == f"vllm-org--tiny:{COMMIT}"
    assert (other.name, other.format, other.source) == ("tiny", "safetensors", "org/tiny")
    for file in files:
        mine = Path(first.folder, file.name).stat().st_ino
        assert Path(other.path, file.name).stat().st_ino == mine


def test_a_familys_defaults_lie_below_what_the_caller_says(hub: Hub) -> None:
    for model_id in ("qwen3:0.6b", "Qwen/Qwen3-0.6B", "qwen/qwen3-0.6b@main"):
        defaults = openllm.LLM(model_id).config.defaults
        assert (defaults.temperature, defaults.top_k, defaults.top_p) == (0.6, 20, 0.95)
    defaults = openllm.LLM("qwen3:0.6b", temperature=0.0, stop="x").config.defaults
    assert (defaults.temperature, defaults.top_k, defaults.stop_sequence) == (0.0, 20, ("x",))
    assert openllm.LLM("org/tiny").config.defaults.temperature is None


def test_what_cannot_run_is_refused_before_its_weights(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("openllm.engines.find_spec", lambda name: None)
    monkeypatch.setattr("openllm.engines.vllm_presence.find_spec", lambda name: None)
    with pytest.raises(EngineNotInstalledError, match="pip install"):
        framework_of("x", LoadOptions(), "LlamaForCausalLM", "safetensors")
    with pytest.raises(ConfigurationError, match="Use a GGUF file of the model"):
        framework_of("x", LoadOptions(), "BaichuanForCausalLM", "safetensors")


def test_a_download_that_is_given_up_is_told_so(hub: Hub) -> None:
    source = ModelSource(parse_ref("org/tiny"), LoadOptions())
    waits = threading.Event()

    def pull(*_: Any, cancelled: threading.Event, **__: Any) -> StoredModel:
        waits.set()
        assert cancelled.wait(20)
        raise ConfigurationError("given up")

    sys.modules["openllm.models.pull"].pull = pull  # type: ignore[attr-defined]
    failures: list[Exception] = []

    def get() -> None:
        try:
            source.get()
        except ConfigurationError as error:
            failures.append(error)

    thread = threading.Thread(target=get)
    thread.start()
    assert waits.wait(20)
    source.cancel()
    thread.join(20)
    assert [str(each) for each in failures] == ["given up"]


def model_of(llm: openllm.LLM) -> Any:
    """Ask the real BentoML, which looks for its home once in a process."""
    from bentoml._internal.configuration.containers import BentoMLContainer
    from bentoml._internal.models.model import ModelStore

    BentoMLContainer.model_store.set(ModelStore(os.path.join(os.environ["BENTOML_HOME"], "models")))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return llm.bentomodel
    finally:
        BentoMLContainer.model_store.reset()


def test_settings_are_json(tmp_path: Path) -> None:
    assert all(json.dumps(row.defaults) for row in families())
