"""A repository that could not be loaded once it is here is refused by its listing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import openllm
from openllm.bento import launch
from openllm.bento.ahead import check_ahead
from openllm.bento.options import read_configuration
from openllm.cli import main
from openllm.config.model import LoadOptions
from openllm.engines import vllm_presence
from openllm.errors import ModelFileError, OpenLLMError
from openllm.llm import choice, source
from openllm.llm.choice import choose_engine
from openllm.llm.fetching import local_model
from openllm.llm.source import ModelSource
from openllm.models.ref import parse_ref
from openllm.models.store import stored
from openllm.types import LocalModel
from tests.hub_server import HubServer, use_hub

FOLDER = {
    one.name: one.read_bytes() for one in files("openllm").joinpath("demo", "safetensors").iterdir()
}
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
BASE = {name: content for name, content in FOLDER.items() if name not in TOKENIZER}
WEIGHTS = "model.safetensors"


def with_config(**more: Any) -> dict[str, bytes]:
    """Return the files of the base model with more in its `config.json`."""
    config = json.loads(BASE["config.json"]) | more
    return {**BASE, "config.json": json.dumps(config).encode()}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub with a model, the same without its tokenizer, and its tokenizer; no engine is here."""
    monkeypatch.setattr(choice, "unfit", lambda _: "vLLM is not installed")
    monkeypatch.setattr(vllm_presence, "find_spec", lambda _: None)
    words = {name: FOLDER[name] for name in ("config.json", *TOKENIZER) if name in FOLDER}
    with HubServer({"org/base": BASE, "org/whole": FOLDER, "org/words": words}) as server:
        use_hub(server.url, tmp_path, monkeypatch)
        yield server


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    for room in (choice, source):
        monkeypatch.setattr(room, "check_installed", lambda _: None)


def started(models: str, **options: Any) -> str:
    """Return what `openllm start` says of models that it refuses."""
    with pytest.raises(OpenLLMError) as raised:
        launch.run(read_configuration(models, {"port": 0, **options}, {}), lambda: None)  # type: ignore[arg-type, return-value]
    return raised.value.message


def pulled(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["pull", *arguments])
    return done.exit_code, done.stderr


def nothing_was_fetched(hub: HubServer, home: Path) -> bool:
    downloads = home / "openllm" / "downloads"
    left = list(downloads.iterdir()) if downloads.exists() else []
    return not hub.asked(WEIGHTS) and stored() == () and not left


def told_later(tmp_path: Path, content: dict[str, bytes]) -> str:
    """Return what is said of the same files in a folder, but for where they lie."""
    folder = tmp_path / "here"
    folder.mkdir()
    for name, each in content.items():
        (folder / name).write_bytes(each)
    with pytest.raises(ModelFileError) as raised:
        choose_engine(
            LocalModel(name="here", path=str(folder), format="safetensors"), LoadOptions()
        )
    return raised.value.message.replace(str(folder), "org/base")


@pytest.mark.usefixtures("installed")
def test_start_pull_and_the_library_refuse_it_in_the_words_of_later(
    hub: HubServer, tmp_path: Path
) -> None:
    later = told_later(tmp_path, BASE)
    assert later.startswith("org/base/tokenizer.json does not exist, nor another file of a token")
    assert "--tokenizer" in later
    assert started("org/base") == later
    assert pulled("org/base") == (2, f"Error: {later}\n")
    with pytest.raises(ModelFileError) as raised:
        openllm.LLM("org/base").sync_generate("hi")
    assert raised.value.message == later
    assert started("org/base", load_format="dummy") == later
    assert nothing_was_fetched(hub, tmp_path / "store")


def test_pull_refuses_it_where_no_engine_is_installed(hub: HubServer, tmp_path: Path) -> None:
    status, told = pulled("org/base")
    assert (status, "org/base/tokenizer.json does not exist" in told) == (2, True)
    assert nothing_was_fetched(hub, tmp_path / "store")


def test_fit_tells_what_start_will_refuse(hub: HubServer) -> None:
    def asked(*arguments: str) -> str:
        done = CliRunner().invoke(main, ["fit", *arguments])
        assert done.exit_code == 0, done.stderr
        return done.stdout

    assert "start refuses it: org/base/tokenizer.json does not exist, nor " in asked("org/base")
    assert "start refuses it" not in asked("org/base", "--tokenizer", "org/words")
    assert "start refuses it" not in asked("org/whole")
    hub.reset_counts()
    asked("org/whole")
    assert [one.path for one in hub.requests].count(
        "/api/models/org/whole/revision/main?blobs=true"
    ) == 1


def test_with_a_tokenizer_from_elsewhere_it_is_pulled(hub: HubServer) -> None:
    status, told = pulled("org/base", "--tokenizer", "org/words")
    assert status == 0, told
    assert {model.source for model in stored()} == {"org/base", "org/words"}


@pytest.mark.usefixtures("installed")
def test_what_is_here_without_one_takes_one_that_is_not(hub: HubServer, tmp_path: Path) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    for name, content in BASE.items():
        (folder / name).write_bytes(content)
    check_ahead(read_configuration(str(folder), {"tokenizer": "org/words"}, {}))
    load = LoadOptions(backend="torch", tokenizer="org/words")
    assert ModelSource(parse_ref(str(folder)), load).get().tokenizer is not None
    assert {model.source for model in stored()} == {"org/words"}


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    "more", [{"tokenizer.model": b"x"}, {"vocab.txt": b"x"}, {"tekken.json": b"{}"}]
)
def test_what_may_be_a_tokenizer_is_left_to_the_engine(
    hub: HubServer, more: dict[str, bytes]
) -> None:
    hub.add_repo("org/base", {**BASE, **more})
    status, told = pulled("org/base")
    assert status == 0, told


@pytest.mark.usefixtures("installed")
def test_a_configuration_that_names_its_tokenizer_is_enough(hub: HubServer) -> None:
    hub.add_repo("org/base", with_config(tokenizer_class="ByT5Tokenizer"))
    status, told = pulled("org/base")
    assert status == 0, told


@pytest.mark.reliability("S-22")
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (with_config(auto_map={"AutoModel": "x.Y"}), "asks by 'auto_map' for Python code"),
        (with_config(architectures=[]), "names no architecture"),
        ({**BASE, "config.json": b"{"}, "is not JSON"),
        ({WEIGHTS: BASE[WEIGHTS]}, "config.json does not exist"),
    ],
)
def test_what_the_configuration_alone_tells(
    hub: HubServer, tmp_path: Path, content: dict[str, bytes], says: str
) -> None:
    hub.add_repo("org/base", content)
    status, told = pulled("org/base")
    assert (status, says in told) == (2, True), told
    assert nothing_was_fetched(hub, tmp_path / "store")


@pytest.mark.reliability("S-22")
def test_code_that_is_trusted_is_pulled(hub: HubServer) -> None:
    hub.add_repo("org/base", with_config(auto_map={"AutoModel": "x.Y"}) | {"x.py": b""})
    status, told = pulled("org/base", "--trust-remote-code")
    assert status == 0, told


def test_a_listing_without_lengths_is_no_obstacle(hub: HubServer) -> None:
    hub.faults.listing_without_hashes = True
    status, told = pulled("org/whole")
    assert status == 0, told


@pytest.mark.usefixtures("installed")
def test_what_is_here_is_not_asked_for(hub: HubServer) -> None:
    local_model("org/base")  # As a download without a purpose yet.
    hub.reset_counts()
    assert pulled("org/base")[0] == 0
    assert "tokenizer.json does not exist" in started("org/base")
    assert hub.requests == []
