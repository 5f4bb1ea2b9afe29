"""What is wrong with the adapters of a configuration is told before anything is downloaded, and the
commands know adapters of the store.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from openllm.bento import preflight
from openllm.bento.checks import fetch, wrong_models
from openllm.bento.preflight import check_memory, check_memory_ahead
from openllm.cli import main
from openllm.config.download import DownloadOptions
from openllm.errors import OutOfMemoryError
from openllm.llm.parts import fetch_adapter
from openllm.models.adapters import adapter_refs
from openllm.models.store import remedy, stored
from tests.hub_server import HubServer, use_hub
from tests.lora import matrices, write_gguf, write_peft
from tests.unit.bento.starts import configured, refusal
from tools.llama_gguf import LlamaShape

DEMO = Path(str(files("openllm").joinpath("demo")))
GGUF = (DEMO / "demo-q8_0.gguf").read_bytes()
LORA = matrices(
    LlamaShape.from_config_json(DEMO / "safetensors" / "config.json").tensor_shapes(), 1
)


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters")
    write_gguf(folder / "sql.gguf", LORA)
    write_peft(folder / "peft", LORA)
    return folder


@pytest.fixture
def hub(adapters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    repos = {
        "org/model": {"model.gguf": GGUF},
        "org/gguf": {"sql.gguf": (adapters / "sql.gguf").read_bytes()},
        "org/peft": adapters / "peft",
    }
    with HubServer(repos) as server:
        use_hub(server.url, tmp_path, monkeypatch)
        yield server


def ask(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


@pytest.mark.parametrize(
    ("models", "options", "name"),
    [
        ("org/model", {"lora": ("model=org/gguf:sql.gguf",)}, "model"),
        ("a=org/model,b=org/model", {"lora": ("sql=org/gguf:sql.gguf",)}, "sql"),
        ("a=org/model,b=org/model", {"a.lora": ("b=org/gguf:sql.gguf",)}, "b"),
    ],
)
def test_names_that_clash_cost_no_request(
    hub: HubServer, models: str, options: dict[str, Any], name: str
) -> None:
    told = refusal(models, **options)
    assert told == (
        f"two models or adapters are called {name!r}; give each a name of its own, and an adapter"
        " to the model that it is for"
    )
    assert hub.requests == []
    assert wrong_models(configured(models, **options).entries) == [told]


def test_adapters_of_all_models_are_looked_up_before_the_first_download(hub: HubServer) -> None:
    told = refusal("a=org/model,b=org/model", **{"b.lora": ("sql=org/nothing",)})
    assert told.startswith("lora 'sql=org/nothing': there is no ")
    told = refusal("a=org/model,b=org/model", **{"b.lora": ("sql=org/peft",)})
    assert told == (
        "--opt b.lora: the adapter 'sql=org/peft' is not for llamacpp, which takes a GGUF file"
    )
    told = refusal("org/model", lora=("sql=org/model",))
    assert told.startswith("--lora: lora 'sql=org/model': org/model has no adapter_config.json; if")
    assert hub.body_bytes == 0


def test_pull_looks_up_the_adapters_of_models_that_are_here_first(
    hub: HubServer, tmp_path: Path
) -> None:
    path = tmp_path / "models.yaml"
    path.write_text("models: {first: org/model, demo: {lora: [sql=org/nothing]}}")
    done = ask("pull", str(path))
    assert done.exit_code == 2
    assert "lora 'sql=org/nothing': there is no " in done.stderr
    assert hub.body_bytes == 0
    assert stored() == ()


def test_one_listing_serves_the_look_and_the_download(hub: HubServer) -> None:
    done = ask("pull", "org/model", "--lora", "sql=org/gguf:sql.gguf")
    assert done.exit_code == 0, done.stderr
    assert {each.source for each in stored()} == {"org/model", "org/gguf"}
    assert len(hub.asked("/api/models/org/gguf")) == 1
    offline = {"lora": ("sql=org/gguf:sql.gguf",), "offline": True}
    (model,) = fetch(configured("org/model", **offline))
    assert [each.name for each in model.adapters] == ["sql"]


@pytest.mark.parametrize("command", ["start", "pull", "fit"])
def test_an_adapter_is_no_model(hub: HubServer, command: str) -> None:
    done = ask(command, "org/peft")
    assert done.exit_code == 2
    assert "org/peft is a LoRA adapter (adapter_config.json), not a model" in done.stderr
    assert "openllm start MODEL --lora NAME=org/peft, and openllm pull takes" in done.stderr
    done = ask("start", "org/gguf:sql.gguf")
    assert done.exit_code == 2
    assert "it says it is of the type 'adapter': give it to its model by --lora" in done.stderr


def test_the_store_commands_know_adapters(hub: HubServer) -> None:
    for ref in adapter_refs(("sql=org/gguf:sql.gguf", "peft=org/peft")):
        fetch_adapter(ref, DownloadOptions())
    listed = {each["source"]: each for each in json.loads(ask("list", "--json").stdout)}
    assert set(listed) == {"org/gguf", "org/peft"}
    assert "org/gguf:sql.gguf" in ask("list").stdout
    for source, row in listed.items():
        assert row["tag"].startswith(f"adapter-{source.replace('/', '--')}")
        assert ask("verify", row["tag"]).exit_code == 0
    shown = ask("show", "org/peft").stdout
    assert "adapter_model.safetensors" in shown
    assert "handler" not in shown
    items = [row["items"] for row in json.loads(ask("models", "--json").stdout).values()]
    assert not any(items)
    assert ask("gc").exit_code == 0
    assert len(stored()) == 2
    assert ask("rm", "--yes", "org/peft", listed["org/gguf"]["tag"]).exit_code == 0
    assert stored() == ()


def test_a_damaged_adapter_comes_again_with_its_model(hub: HubServer, adapters: Path) -> None:
    url = hub.add_file("sql.gguf", (adapters / "sql.gguf").read_bytes())
    for ref in adapter_refs(("a=org/gguf:sql.gguf", "b=org/peft", f"c={url}")):
        fetch_adapter(ref, DownloadOptions())
    assert len(stored()) == 3
    for each in stored():
        assert remedy(each) == (
            f"openllm rm --yes {each.tag}, and the next start of the model that it is for downloads"
            " it again"
        )


def test_fit_counts_adapters(hub: HubServer, adapters: Path) -> None:
    size = (adapters / "sql.gguf").stat().st_size
    plain = json.loads(ask("fit", "org/model", "--json").stdout)
    for source in (f"{adapters}/sql.gguf", "org/gguf:sql.gguf"):
        found = json.loads(ask("fit", "org/model", "--json", "--lora", f"sql={source}").stdout)
        assert (plain["adapter_bytes"], found["adapter_bytes"]) == (0, size)
        assert found["weight_bytes"] == plain["weight_bytes"]
        (row,), (before,) = found["engines"], plain["engines"]
        assert row["weights"] == before["weights"] + size
        assert row["need"] == before["need"] + size
    assert "of the weights." in ask("fit", "demo", "--lora", f"{adapters}/sql.gguf").stdout
    done = ask("fit", "demo", "--lora", str(adapters / "peft"))
    assert (done.exit_code, done.stdout) == (2, "")
    assert "is not for llamacpp, which takes a GGUF file" in done.stderr
    assert stored() == ()


def test_start_counts_adapters(
    hub: HubServer, adapters: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"lora": ("sql=org/gguf:sql.gguf",), "context_length": 512}
    configuration = configured(f"demo={DEMO / 'demo-q8_0.gguf'}", **asked)
    monkeypatch.setattr(preflight, "free_cards", lambda: ())
    monkeypatch.setattr(preflight, "free_memory", lambda: 1)
    with pytest.raises(OutOfMemoryError) as ahead:
        check_memory_ahead(configuration.entries)
    models = fetch(configuration)
    loads = [entry.config.load for entry in configuration.entries]
    with pytest.raises(OutOfMemoryError) as after:
        check_memory([(*models, *loads)])
    assert after.value.message == ahead.value.message
    plain = configured(f"demo={DEMO / 'demo-q8_0.gguf'}", context_length=512)
    with pytest.raises(OutOfMemoryError) as without:
        check_memory_ahead(plain.entries)
    assert without.value.message != ahead.value.message
