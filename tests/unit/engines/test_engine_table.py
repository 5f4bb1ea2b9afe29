"""The table of engines: those of others come in by `add_engine` or by entry point."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

import openllm.engines
from openllm.config.model import LoadOptions
from openllm.engines import (
    EngineKind,
    add_engine,
    added_engines,
    create_engine,
    engine_kind,
    engine_name,
    engine_names,
    engines_for,
)
from openllm.errors import ConfigurationError, EngineStartError
from openllm.llm.choice import choose_engine
from openllm.runner.wire import Launch
from openllm.types import LocalModel

TARGET = "tests.unit.test_custom_engine:ShoutingEngine"
MODEL = LocalModel(name="x", path="/x.txt", format="other")


@pytest.fixture(autouse=True)
def table(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(openllm.engines, "ENGINES", dict(openllm.engines.ENGINES))
    openllm.engines._entry_points.cache_clear()
    yield
    openllm.engines._entry_points.cache_clear()


@pytest.mark.spec("S3-44")
def test_an_engine_is_added_and_chosen() -> None:
    with pytest.raises(ConfigurationError, match="No engine loads 'x', whose format is other"):
        choose_engine(MODEL, LoadOptions())
    add_engine("loud", TARGET, needs=["json"])
    assert engine_name("Loud") == "loud"
    assert choose_engine(MODEL, LoadOptions()).name == "loud"
    assert choose_engine(MODEL, LoadOptions(backend="loud")).name == "loud"
    gguf = msgspec.structs.replace(MODEL, format="gguf")
    with pytest.raises(ConfigurationError, match=r"loud backend cannot load 'x'.*use llamacpp"):
        choose_engine(gguf, LoadOptions(backend="loud"))


def test_an_architecture_is_no_affair_of_ours_on_an_engine_of_others() -> None:
    from openllm.llm.choice import choose_by_facts

    add_engine("loud", TARGET, formats=["safetensors"])
    load = LoadOptions(backend="loud")
    assert choose_by_facts("x", "safetensors", "BaichuanForCausalLM", load).name == "loud"


@pytest.mark.spec("S3-44")
def test_a_runners_process_is_told_of_it() -> None:
    add_engine("loud", TARGET)
    add_engine("loud", TARGET)  # The same again is no second one.
    sent = msgspec.json.encode(Launch(model=MODEL, config={}))
    assert list(added_engines()) == ["loud"]
    openllm.engines.ENGINES.pop("loud")
    msgspec.json.decode(sent, type=Launch)
    assert engine_kind("loud").target == TARGET


@pytest.mark.parametrize(
    ("name", "target", "said"),
    [
        ("vllm", TARGET, "already taken"),
        ("pt", TARGET, "cannot be the name"),
        ("Loud", TARGET, "cannot be the name"),
        ("", TARGET, "cannot be the name"),
        ("loud", "module", "write 'module:Class'"),
        ("loud", "__main__:Loud", "a module that can be imported anywhere"),
        ("loud", ":Loud", "write 'module:Class'"),
        ("loud", "module:a.b", "write 'module:Class'"),
    ],
)
def test_wrong_engines_are_not_added(name: str, target: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        add_engine(name, target)


def test_a_package_that_is_not_there_is_told_before_anything_runs() -> None:
    add_engine("loud", "no_such_package.deep:Loud")
    with pytest.raises(ConfigurationError) as raised:
        choose_engine(MODEL, LoadOptions(backend="loud"))
    assert raised.value.message.startswith(
        "The engine 'loud' is at 'no_such_package.deep:Loud', and this Python has no module"
        " 'no_such_package'; correct"
    )


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("json.none:Loud", "ModuleNotFoundError: No module named 'json.none'; each model"),
        ("json:Loud", "AttributeError: module 'json' has no attribute 'Loud'; each model"),
    ],
)
def test_a_class_that_cannot_be_imported_is_one_line(target: str, said: str) -> None:
    add_engine("loud", target)
    with pytest.raises(EngineStartError) as raised:
        create_engine("loud", MODEL, LoadOptions())
    told = f"The engine 'loud' cannot be imported from {target}: {said}"
    assert raised.value.message.startswith(told)


def install(folder: Path, entry_points: str) -> None:
    metadata = folder / "engines-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: engines\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[openllm.engines]\n{entry_points}")


def test_entry_points_are_engines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "engines_of_test.py").write_text(
        "from openllm.engines import EngineKind\n"
        f"KIND = EngineKind({TARGET!r}, ('other',))\nOTHER = 3\n"
    )
    install(
        tmp_path,
        "quiet = engines_of_test:KIND\nwrong = engines_of_test:OTHER\n"
        "gone = engines_not_there:KIND\nvllm = engines_of_test:KIND\n",
    )
    monkeypatch.syspath_prepend(tmp_path)
    with caplog.at_level(logging.WARNING, "openllm.engines"):
        assert {"quiet", "wrong", "gone"} <= set(engine_names())
        assert "has our own's name" in caplog.text
        assert list(engines_for("other")) == ["quiet"]
    assert "'gone' cannot be imported from engines_not_there:KIND" in caplog.text
    assert engine_kind("quiet") == EngineKind(TARGET, ("other",), (), "open-llm-server")
    assert engine_kind("vllm").install == "vllm"
    with pytest.raises(ConfigurationError, match="is no EngineKind"):
        choose_engine(MODEL, LoadOptions(backend="wrong"))
