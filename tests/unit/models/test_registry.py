"""Models that users add: by method, by decorator, by entry point."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest

import openllm
from openllm.errors import ConfigurationError
from openllm.models.locate import defaults_of, expand, family_of, find_local, known_names
from openllm.models.ref import is_model_name, parse_ref
from openllm.models.registry import REGISTRY, Registered, Registry


@pytest.fixture
def registry() -> Registry:
    return Registry()


def test_the_packages_own_names_are_names() -> None:
    assert "demo" in REGISTRY
    assert all(is_model_name(name) for name in REGISTRY)
    assert openllm.Registry is REGISTRY


def test_a_model_is_added_by_its_name(registry: Registry) -> None:
    registry.add_model("mine", "/m/mine.gguf")
    assert list(registry) == ["mine"]
    assert len(registry) == 1
    assert registry["mine"] == Registered(name="mine", source="/m/mine.gguf")
    assert expand(parse_ref("mine"), registry).source == "/m/mine.gguf"
    assert expand(parse_ref("x=mine"), registry).served_name == "x"


@pytest.mark.spec("S0-52")
def test_a_class_is_a_model(registry: Registry) -> None:
    @registry.add_model(model_name="ours")
    class Ours:
        source = "org/name@main"
        defaults = {"temperature": 0.2}  # noqa: RUF012

    assert Ours.source == "org/name@main"
    ref = expand(parse_ref("ours"), registry)
    assert (ref.repo, ref.revision, ref.served_name) == ("org/name", "main", "ours")
    assert defaults_of(parse_ref("ours"), registry) == {"temperature": 0.2}


@pytest.mark.spec("S0-52")
def test_a_registered_name_may_stand_for_a_family_with_settings_of_its_own(
    registry: Registry,
) -> None:
    registry.add_model("small", "qwen3:0.6b", defaults={"temperature": 0.0})
    ref = expand(parse_ref("small"), registry)
    assert (ref.repo, ref.served_name) == ("Qwen/Qwen3-0.6B", "small")
    assert defaults_of(parse_ref("small"), registry) == {
        "temperature": 0.0,
        "top_k": 20,
        "top_p": 0.95,
    }


def test_a_registered_name_comes_before_a_family(registry: Registry) -> None:
    registry.add_model("flan-t5", "/m/mine.gguf")
    assert expand(parse_ref("flan_t5"), registry).kind == "path"
    assert expand(parse_ref("flan-t5:small"), registry).repo == "google/flan-t5-small"


def test_files_of_ones_own_format_are_found(registry: Registry, tmp_path: Path) -> None:
    text = tmp_path / "a.txt"
    text.write_text("x")
    registry.add_model("text", str(text), format="other", defaults={"backend": "own"})
    registry.add_model("again", "text")
    for name in ("text", "again"):
        found = find_local(parse_ref(name), registry)
        assert found is not None
        assert (found.name, found.path, found.format) == (name, str(text), "other")
        assert defaults_of(parse_ref(name), registry) == {"backend": "own"}


@pytest.mark.spec("S3-08")
@pytest.mark.parametrize(
    ("name", "source", "said"),
    [
        ("../x", "/m/x.gguf", "is not a model name"),
        ("a b", "/m/x.gguf", "is not a model name"),
        ("taken", "/m/x.gguf", "'taken' is already taken"),
        ("ta-ken", "demo", None),
        ("ta_ken", "demo", None),
        ("Taken", "demo", "share their environment variables OPEN_LLM_TAKEN_"),
        ("x", "y=demo", "leave out the NAME="),
        ("x", "a/b:..", "no GGUF file"),
    ],
)
def test_wrong_models_are_not_added(
    registry: Registry, name: str, source: str, said: str | None
) -> None:
    registry.add_model("taken", "/m/x.gguf")
    if said is None:
        registry.add_model(name, source)
        name, said = name.replace("-", "_"), "already taken"
    with pytest.raises(ConfigurationError, match=said):
        registry.add_model(name, source)


def test_a_format_that_is_none_is_refused(registry: Registry) -> None:
    said = "format of the model 'x' is 'zip'; use one of gguf, safetensors, script, other"
    with pytest.raises(ConfigurationError, match=said):
        registry.add_model("x", "/m/x", format="zip")  # type: ignore[arg-type]

    with pytest.raises(ConfigurationError, match=said):

        @registry.add_model(model_name="x")
        class Described:
            source = "/m/x"
            format = "zip"

    assert "x" not in registry


def test_a_class_without_a_source_is_refused(registry: Registry) -> None:
    with pytest.raises(ConfigurationError, match="Nothing of the model 'x' has no source"):

        @registry.add_model(model_name="x")
        class Nothing: ...


def test_wrong_defaults_are_refused_all_at_once(registry: Registry) -> None:
    with pytest.raises(ConfigurationError) as raised:
        registry.add_model("x", "org/x", defaults={"temprature": 0.2, "top_k": True, "zzz": 1})
    assert raised.value.message.splitlines() == [
        "3 settings are wrong:",
        "- the model 'x': there is no setting 'temprature'; did you mean 'temperature'",
        "- the model 'x': there is no setting 'zzz'",
        "- the model 'x': top_k true must be a whole number, 0 or more",
    ]
    assert "x" not in registry


def test_the_defaults_of_what_means_itself_have_an_end(registry: Registry) -> None:
    registry.add_model("a", "b", defaults={"temperature": 0.5})
    registry.add_model("b", "a", defaults={"top_k": 3})
    assert defaults_of(parse_ref("a"), registry) == {"temperature": 0.5, "top_k": 3}
    assert family_of(parse_ref("a"), registry) is None


def test_a_model_that_means_itself_is_refused(registry: Registry) -> None:
    registry.add_model("one", "two")
    registry.add_model("two", "one")
    with pytest.raises(ConfigurationError, match="registered as itself"):
        expand(parse_ref("one"), registry)


@pytest.mark.spec("S0-07")
def test_an_unknown_name_lists_the_known_ones(registry: Registry) -> None:
    registry.add_model("mine", "/m/mine.gguf")
    with pytest.raises(ConfigurationError) as raised:
        expand(parse_ref("mime"), registry)
    assert "Did you mean 'mine'? Known models: mine, " in raised.value.message
    for name in known_names(registry):
        assert name in raised.value.message


MODULE = """
from openllm.models.registry import REGISTRY

def register(registry):
    registry.add_model("fetched", "org/fetched")

class Described:
    source = "org/described"

@REGISTRY.add_model(model_name="decorated")
class Decorated:
    source = "org/decorated"

def fails(registry):
    raise RuntimeError("cannot")
"""

ENTRY_POINTS = """[openllm.models]
described = plugin_of_test:Described
broken = plugin_that_is_not_there:register
failing = plugin_of_test:fails
fetched = plugin_of_test:register
decorated = plugin_of_test:Decorated
"""


def test_entry_points_add_models_and_a_broken_one_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "plugin_of_test.py").write_text(MODULE)
    metadata = tmp_path / "plugin-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(tmp_path)
    registry = Registry("openllm.models")
    monkeypatch.setattr("openllm.models.registry.REGISTRY", registry)
    registry.add_model("known", "/m/x.gguf")
    assert registry["known"].source == "/m/x.gguf"
    assert "plugin_of_test" not in sys.modules  # A known name reads no entry points.
    with caplog.at_level(logging.WARNING, "openllm.models"):
        assert registry["fetched"].source == "org/fetched"
    assert registry["described"].source == "org/described"
    assert registry["decorated"].source == "org/decorated"
    for name in ("broken", "failing"):
        assert f"the entry point {name!r} of plugin" in caplog.text
        assert name not in registry
    sys.modules.pop("plugin_of_test")
