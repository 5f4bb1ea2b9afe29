"""A family's name says of all its sizes what a model's says of one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from openllm.bento.checks import check
from openllm.bento.options import read_configuration
from openllm.config.effective import Entry, Setting
from openllm.errors import ConfigurationError
from openllm.models.registry import REGISTRY

SMALL, LARGE = "qwen3:0.6b-gguf", "qwen3:4b"


@pytest.fixture(autouse=True)
def empty_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "bentoml"))


def entries(
    models: str,
    options: Mapping[str, object] | None = None,
    file: Path | None = None,
    **variables: str,
) -> tuple[Entry, ...]:
    environ = {f"OPEN_LLM_{name}": value for name, value in variables.items()}
    found = read_configuration(models, options or {}, environ, file=str(file) if file else None)
    return found.entries


def seed(entry: Entry) -> tuple[object, str, str]:
    return entry.settings["seed"]


def test_a_variable_of_the_family() -> None:
    for name in (SMALL, "Qwen3:0.6b-gguf"):
        (entry,) = entries(name, QWEN3_SEED="3", SEED="9")
        assert seed(entry) == (3, "OPEN_LLM_QWEN3_SEED", "family")
        assert entry.config.defaults.seed == 3
    (entry,) = entries("flan_t5:small", FLAN_T5_SEED="3")
    assert entry.config.defaults.seed == 3


def test_a_section_of_the_family(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("seed: 9\nmodels:\n  qwen3: {seed: 3}\n")
    (entry,) = entries(SMALL, file=file)
    assert seed(entry) == (3, f"{file}, line 3: models.qwen3.seed", "family")


def test_an_opt_of_the_family() -> None:
    small, large, demo = entries(f"{SMALL},{LARGE},demo", {"qwen3.seed": "3", ".seed": "9"})
    assert seed(small) == seed(large) == (3, "--opt qwen3.seed", "family")
    assert seed(demo) == (9, "--opt seed", "all")


@pytest.mark.parametrize("device", ["qwen3:cpu", "qwen3:cpu,demo:mps", ("demo:mps", "qwen3:cpu")])
def test_a_device_of_the_family(device: object) -> None:
    small, demo = entries(f"{SMALL},demo", {"device": device})
    assert small.settings["device"] == ("cpu", "--device", "family")
    assert demo.config.load.device == (None if device == "qwen3:cpu" else "mps")
    (small,) = entries(SMALL, {"device": "qwen3:gpu:1"})
    assert small.config.load.device == "cuda:1"


def test_a_revision_of_the_family() -> None:
    small, demo = read_configuration(f"{SMALL},demo", {"revision": "qwen3:dev"}, {}).entries
    assert small.text.startswith(f"{SMALL}=")
    assert "@dev:" in small.text
    assert demo.download.revision is None


def test_the_name_of_the_size_wins(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(f"models:\n  qwen3: {{seed: 3}}\n  {SMALL}: {{seed: 4}}\n")
    both = f"{SMALL},{LARGE}"
    cases: list[tuple[Mapping[str, object], Path | None, dict[str, str]]] = [
        ({}, file, {}),
        ({}, None, {"QWEN3_SEED": "3", "QWEN3_0_6B_GGUF_SEED": "4"}),
        ({"qwen3.seed": 3, f"{SMALL}.seed": 4}, None, {}),
    ]
    for options, path, variables in cases:
        small, large = entries(both, options, path, **variables)
        assert (small.config.defaults.seed, large.config.defaults.seed) == (4, 3)
    small, large = entries(both, {"device": f"qwen3:mps,{SMALL}:cpu"})
    assert (small.config.load.device, large.config.load.device) == ("cpu", "mps")


def test_a_flag_of_the_family_comes_before_a_variable_of_the_size() -> None:
    (entry,) = entries(SMALL, {"qwen3.seed": 3}, QWEN3_0_6B_GGUF_SEED="4")
    assert entry.config.defaults.seed == 3


def test_a_served_model_of_that_name_has_it_alone(tmp_path: Path) -> None:
    family, small = entries(f"qwen3,{SMALL}", QWEN3_SEED="3")
    assert seed(family) == (3, "OPEN_LLM_QWEN3_SEED", "model")
    assert small.settings["seed"].value is None
    file = tmp_path / "a.yaml"
    file.write_text("models:\n  qwen3: {model: org/other, seed: 3}\n")
    (small,) = entries(SMALL, file=file)
    assert small.settings["seed"].value is None


@pytest.mark.parametrize("model", [f"coder={SMALL}", "coder=Qwen/Qwen3-4B", "Qwen/Qwen3-4B"])
def test_a_model_is_of_its_family_under_any_name(model: str, tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("models: {qwen3: {seed: 3}}\n")
    (entry,) = entries(model, QWEN3_SEED="3")
    assert seed(entry) == (3, "OPEN_LLM_QWEN3_SEED", "family")
    (entry,) = entries(model, {"qwen3.seed": 3, "device": "qwen3:cpu"})
    assert seed(entry) == (3, "--opt qwen3.seed", "family")
    assert entry.config.load.device == "cpu"
    (entry,) = entries(model, file=file)
    assert seed(entry) == (3, f"{file}, line 1: models.qwen3.seed", "family")


def test_a_registered_model_is_of_the_family_of_its_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(REGISTRY, "_models", dict(REGISTRY._models))
    REGISTRY.add_model("house", SMALL)
    (entry,) = entries("house", QWEN3_SEED="3")
    assert seed(entry) == (3, "OPEN_LLM_QWEN3_SEED", "family")


def test_a_name_of_the_users_own_comes_before_the_family(tmp_path: Path) -> None:
    (entry,) = entries(f"coder={SMALL}", QWEN3_SEED="3", CODER_SEED="4")
    assert seed(entry) == (4, "OPEN_LLM_CODER_SEED", "model")
    other, coder = entries(f"qwen3=demo,coder={SMALL}", QWEN3_SEED="3")
    assert (other.config.defaults.seed, coder.config.defaults.seed) == (3, None)
    (entry,) = entries("qwen3:4b=demo", QWEN3_SEED="3")
    assert entry.settings["seed"] == Setting(None, "default")


def test_a_wrong_value_is_told_once_with_its_place() -> None:
    with pytest.raises(ConfigurationError) as raised:
        entries(f"{SMALL},{LARGE}", QWEN3_SEED="x")
    assert raised.value.message == "OPEN_LLM_QWEN3_SEED 'x' must be a whole number, 0 or more"


def test_an_option_that_some_engine_of_the_family_has(tmp_path: Path) -> None:
    """As what is for all models: good if one has it, refused together if none has."""
    backends = {f"{SMALL}.backend": "llamacpp", f"{LARGE}.backend": "torch"}
    found = read_configuration(f"{SMALL},{LARGE},demo", {**backends, "qwen3.dtype": "half"}, {})
    assert len(check(found).missing) == 2
    with pytest.raises(ConfigurationError) as raised:
        check(read_configuration(SMALL, {f"{SMALL}.backend": "cpp", "qwen3.dtype": "half"}, {}))
    assert raised.value.message.startswith("--opt qwen3.dtype: 'qwen3:0.6b-gguf' runs on llamacpp")
