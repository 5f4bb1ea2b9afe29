"""A family's default model is fetched at its commit, whatever its repository has become."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import openllm
from openllm.errors import ModelNotFoundError
from openllm.llm.fetching import local_model
from openllm.models.families import find
from openllm.models.family import Family
from openllm.models.registry import Registry
from tests.hub_server import HubServer, use_hub

GGUF = (Path(openllm.__file__).parent / "demo" / "demo-q8_0.gguf").read_bytes()


@pytest.fixture
def family() -> Family:
    found = find("smollm2")
    assert found is not None
    return found


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with HubServer() as served:
        use_hub(served.url, tmp_path, monkeypatch)
        yield served


@pytest.mark.spec("S0-03", "S0-08")
def test_the_pinned_commit_is_fetched_once(hub: HubServer, family: Family) -> None:
    hub.add_repo(family.model_id, {"tiny.gguf": GGUF}, family.revision)
    hub.add_repo(family.model_id, {"tiny.gguf": b"GGUF" + bytes(99)})
    model = local_model("smollm2")
    assert model.revision == family.revision
    assert Path(model.path).read_bytes() == GGUF
    hub.reset_counts()
    for name in ("SmolLM", "smollm2:1.7b", f"mine={family.source}", family.model_id):
        assert local_model(name).path == model.path
    assert hub.requests == []


def test_a_family_from_outside_too(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    from openllm.models import families

    table = families.Families(families.families())
    monkeypatch.setattr(families, "table", lambda: table)
    commit = hub.add_repo("org/tulip", {"a-Q8_0.gguf": GGUF, "a-Q4_0.gguf": b"GGUF"})
    hub.add_repo("org/tulip", {"README.md": b""})
    row = {"name": "tulip", "architecture": "LlamaForCausalLM", "example_id": "org/tulip"}
    Registry().add_family(row | {"sizes": {"small": f"org/tulip@{commit}:Q8_0"}})
    model = local_model("tulip:small")
    assert (model.name, model.revision) == ("tulip:small", commit)
    assert Path(model.path).name == "a-Q8_0.gguf"


def test_a_hub_that_lacks_the_commit_is_told(hub: HubServer, family: Family) -> None:
    hub.add_repo(family.model_id, {"tiny.gguf": GGUF})
    with pytest.raises(ModelNotFoundError) as raised:
        local_model("smollm2")
    assert family.revision in raised.value.message
    assert local_model(family.model_id).format == "gguf"
