"""Families that programs and packages add, in the shape of the package's own rows."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from openllm.cli.models import models
from openllm.errors import ConfigurationError
from openllm.llm.settings import model_settings
from openllm.models import families as known
from openllm.models.families import Families, family_of, family_of_id, find, why_not
from openllm.models.family import read_rows
from openllm.models.locate import defaults_of, expand, find_local, known_names
from openllm.models.ref import parse_ref
from openllm.models.registry import Registry

COMMIT = "9ab9e76e2b09f9f29ea2d56aa5bd139e4445c59e"


@pytest.fixture(autouse=True)
def table(monkeypatch: pytest.MonkeyPatch) -> Families:
    """The package's rows, in a table of this test's own."""
    made = Families(known.table().index.families)
    monkeypatch.setattr(known, "table", lambda: made)
    return made


@pytest.fixture
def registry() -> Registry:
    return Registry()


def row(**changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "name": "tulip_2",
        "architecture": "LlamaForCausalLM",
        "example_id": "org/tulip-7b",
        "revision": COMMIT,
        "sizes": {"7b": "org/Tulip-7B", "70b": "org/tulip-70b@main", "7b-gguf": "org/t:Q4_K_M"},
        "defaults": {"temperature": 0.6},
    }
    return {key: value for key, value in {**made, **changes}.items() if value is not None}


@pytest.mark.spec("S0-52")
@pytest.mark.parametrize(
    ("name", "repo", "revision", "file"),
    [
        ("tulip-2", "org/tulip-7b", COMMIT, ""),
        ("Tulip.2", "org/tulip-7b", COMMIT, ""),
        ("tulip_2:7b", "org/Tulip-7B", COMMIT, ""),
        ("tulip-2:70B", "org/tulip-70b", "main", ""),
        ("tulip-2:7b-gguf", "org/t", "", "Q4_K_M"),
    ],
)
def test_an_added_family_is_found_by_name_and_size(
    registry: Registry, name: str, repo: str, revision: str, file: str
) -> None:
    registry.add_family(row())
    ref = expand(parse_ref(name), registry)
    assert (ref.repo, ref.revision, ref.file) == (repo, revision, file)
    assert ref.served_name == name


def test_it_is_one_of_the_known_names(registry: Registry) -> None:
    registry.add_family(row(aliases=["tulipa"]))
    assert known_names(registry)[-1] == "tulip-2"
    assert find("Tulipa") is find("tulip-2")
    with pytest.raises(ConfigurationError, match=r"'tulip-2:8b'.*There are: tulip-2:7b, "):
        expand(parse_ref("tulip-2:8b"), registry)
    with pytest.raises(ConfigurationError, match="Did you mean 'tulip-2'"):
        expand(parse_ref("tulip-3"), registry)


def test_its_defaults_are_settings(registry: Registry) -> None:
    registry.add_family(row(defaults={"temperature": 0.6, "threads": 2}))
    for name in ("tulip-2", "tulip-2:70b", "org/tulip-70B"):
        config = model_settings(parse_ref(name), {}, {}).config
        assert defaults_of(parse_ref(name), registry) == {"temperature": 0.6, "threads": 2}
        assert (config.defaults.temperature, config.load.threads) == (0.6, 2)


def test_a_model_of_it_belongs_to_it(registry: Registry) -> None:
    url = "https://127.0.0.1/a.gguf"
    registry.add_family(row(sizes={"70b": "org/tulip-70b@main", "s": "org/t:Q4_K_M", "u": url}))
    for model_id in ("org/tulip-7b", "org/TULIP-70b", "org/t", url):
        assert family_of_id(model_id) is find("tulip-2")
        assert defaults_of(parse_ref(model_id), registry) == {"temperature": 0.6}
    found = family_of("LlamaForCausalLM")  # Whose it was before.
    assert found is not None
    assert found.name == "llama"


@pytest.mark.spec("S4-22")
def test_it_is_listed(registry: Registry) -> None:
    registry.add_family(row())
    listed = json.loads(CliRunner().invoke(models, ["tulip.2"]).stdout)
    assert listed == {
        "tulip_2": {
            "architecture": "LlamaForCausalLM",
            "example_id": "org/tulip-7b",
            "supported_backends": ["pt", "vllm", "llamacpp"],
            "installation": "pip install open-llm-server",
            "items": [],
        }
    }


def test_one_with_files_and_an_engine_of_its_own(registry: Registry, tmp_path: Path) -> None:
    text = tmp_path / "a.txt"
    text.write_text("x")
    registry.add_family(
        row(
            architecture="Chain",
            architectures=[{"names": ["Chain"], "runs_on": ["mine"]}],
            example_id=str(text),
            revision=None,
            sizes={"a": str(text)},
            format="other",
            defaults={"backend": "mine"},
            install="my-engine",
        )
    )
    for name in ("tulip-2", "tulip-2:a"):
        found = find_local(parse_ref(name), registry)
        assert found is not None
        assert (found.name, found.path, found.format) == (name, str(text), "other")
    listed = json.loads(CliRunner().invoke(models, ["tulip-2"]).stdout)["tulip_2"]
    assert listed["example_id"] == "tulip_2"  # And no path of this machine.
    assert listed["supported_backends"] == ["mine"]
    assert listed["installation"] == "pip install my-engine"
    assert why_not("Chain", "torch") == ("The torch engine does not run Chain. Use --backend mine.")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"colour": "red"}, r"unknown field `colour`; it is .*'tulip_2'.*, and it may have name, "),
        ({"architecture": None}, "missing required field `architecture`"),
        ({"sizes": ["7b"]}, r"Expected `object`, got `array` - at `\$.sizes`"),
        ({"name": "llama"}, "There is a model family 'llama' already"),
        ({"aliases": ["flan-t5"]}, "'flan_t5' stands twice .* in 'flan_t5' and 'tulip_2'"),
        ({"aliases": ["tulip-2"]}, "it has the name 'tulip_2' twice"),
        ({"name": "a b"}, "'a b', which is no name or size"),
        ({"name": "a:b"}, "'a:b', which is no name or size"),
        ({"sizes": {"7B": "org/x"}}, "'7B', which is no name or size"),
        ({"sizes": {"../x": "org/x"}}, "'../x', which is no name or size"),
        ({"sizes": {"x": "llama"}}, "has the model 'llama'; give a hub id"),
        ({"example_id": "x=org/y"}, "has the model 'x=org/y"),
        ({"sizes": {"x": "org/y:.."}}, "no GGUF file"),
        ({"example_id": "./x.gguf"}, f"the revision '{COMMIT}', and './x.gguf' is not on a hub"),
        ({"architecture": "Rose"}, "'Rose', which is in no family's list"),
        (
            {"architecture": "Rose", "architectures": [{"names": ["Rose"], "runs_on": []}]},
            "'Rose' lacks an engine",
        ),
        (
            {"architectures": [{"names": ["OPTForCausalLM"], "runs_on": ["torch", "vllm"]}]},
            "'OPTForCausalLM' stands twice .* in 'opt' and 'tulip_2'",
        ),
        ({"model_types": ["llama"]}, "'llama' stands twice"),
        (
            {"defaults": {"temprature": 0.5}},
            "family 'tulip_2': there is no setting 'temprature'; did you mean 'temperature'",
        ),
        ({"defaults": {"top_k": -3}}, "'tulip_2': top_k -3 must be a whole number, 0 or more"),
    ],
)
def test_a_wrong_row_is_not_added(registry: Registry, changes: dict[str, Any], said: str) -> None:
    before = known.families()
    with pytest.raises(ConfigurationError, match=said):
        registry.add_family(row(**changes))
    assert known.families() == before


@pytest.mark.parametrize("model_first", [True, False])
def test_a_registered_model_goes_before_a_family_of_its_name(
    registry: Registry, model_first: bool
) -> None:
    steps = [
        lambda: registry.add_model("my-rose", "org/x", defaults={"temperature": 0.1}),
        lambda: registry.add_family(row(name="my_rose")),
    ]
    for step in steps if model_first else reversed(steps):
        step()
    assert expand(parse_ref("my-rose"), registry).repo == "org/x"
    assert defaults_of(parse_ref("my_rose"), registry) == {"temperature": 0.1}
    assert expand(parse_ref("my-rose:70b"), registry).repo == "org/tulip-70b"
    assert known_names(registry).count("my-rose") == 1


def test_no_row_at_all_is_told(registry: Registry) -> None:
    with pytest.raises(ConfigurationError, match="Expected `object`, got `int`; it is 3"):
        registry.add_family(3)  # type: ignore[arg-type]


def test_a_registered_model_may_stand_for_one(registry: Registry) -> None:
    registry.add_family(row())
    registry.add_model("mine", "tulip-2:7b", defaults={"temperature": 0.0})
    assert expand(parse_ref("mine"), registry).revision == COMMIT
    assert defaults_of(parse_ref("mine"), registry)["temperature"] == 0.0
    registry.add_model("tulip-2", "org/other")
    assert expand(parse_ref("tulip-2"), registry).repo == "org/other"


MODULE = f"""
from openllm.models.registry import REGISTRY

ONE = {{"name": "rose", "architecture": "GPT2LMHeadModel", "example_id": "org/rose"}}
MORE = [
    {{"name": "iris", "architecture": "GPT2LMHeadModel", "example_id": "org/iris"}},
    {{"name": "lily", "architecture": "GPT2LMHeadModel", "example_id": "org/lily@{COMMIT}"}},
]
TAKEN = {{"name": "llama", "architecture": "GPT2LMHeadModel", "example_id": "org/x"}}
SHADED = {{"name": "daisy", "architecture": "GPT2LMHeadModel", "example_id": "org/daisy"}}
WRONG = {{"name": "weed", "architecture": "GPT2LMHeadModel"}}

def both(registry):
    registry.add_family(ONE | {{"name": "aster"}})
    registry.add_model("daisy", "aster")
"""

ENTRY_POINTS = """[openllm.families]
more = families_of_test:MORE
rose = families_of_test:ONE
shaded = families_of_test:SHADED
taken = families_of_test:TAKEN
wrong = families_of_test:WRONG
absent = families_of_test:ABSENT

[openllm.models]
both = families_of_test:both
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "families_of_test.py").write_text(MODULE)
    metadata = tmp_path / "florist-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: florist\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("families_of_test", None)


@pytest.mark.spec("S0-52")
def test_entry_points_add_families_and_a_broken_one_is_a_warning(
    plugin: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    table = Families(known.table().index.families, "openllm.families")
    monkeypatch.setattr(known, "table", lambda: table)
    registry = Registry("openllm.models")
    with caplog.at_level(logging.WARNING, "openllm.models"):
        assert expand(parse_ref("rose"), registry).repo == "org/rose"
    assert expand(parse_ref("iris"), registry).repo == "org/iris"
    assert expand(parse_ref("lily"), registry).revision == COMMIT
    assert expand(parse_ref("daisy"), registry).repo == "org/rose"
    assert [each.name for each in known.families()][-5:] == [
        *("aster", "iris", "lily", "rose", "daisy")
    ]
    for name, reason in (
        ("taken", "There is a model family 'llama' already"),
        ("wrong", "missing required field `example_id`"),
        ("absent", "AttributeError"),
    ):
        assert f"the entry point {name!r} of florist" in caplog.text
        assert reason in caplog.text
    assert find("weed") is None
    caplog.clear()
    assert find("weed") is None  # Read once.
    assert not caplog.records


def test_a_table_of_ones_own_is_no_other_programs() -> None:
    data = json.dumps([row(revision=None, architecture="A", architectures=[SUPPORT])]).encode()
    assert [each.name for each in Families(read_rows(data)).index.families] == ["tulip_2"]


SUPPORT = {"names": ["A"], "runs_on": ["vllm"]}
