"""The option `revision`: `org/name@revision`, said beside the name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from openllm.bento.options import read_configuration
from openllm.errors import ConfigurationError
from openllm.models import families
from openllm.models.locate import expand
from openllm.models.ref import parse_ref

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def texts(models: str | None, file: Path | None = None, **options: Any) -> list[str]:
    found = read_configuration(models, options, {}, file=str(file) if file else None)
    return [entry.text for entry in found.entries]


def refusal(models: str, *revisions: str) -> str:
    with pytest.raises(ConfigurationError) as raised:
        read_configuration(models, {"revision": revisions}, {})
    return raised.value.message


@pytest.mark.spec("S2-21")
@pytest.mark.parametrize(
    ("model", "revision", "means"),
    [
        ("org/name", COMMIT, f"name=org/name@{COMMIT}"),
        ("mine=org/name:a.gguf", "refs/pr/1", "mine=org/name@refs/pr/1:a.gguf"),
        ("org/name:Q4_K_M", "main", "name=org/name@main:Q4_K_M"),
    ],
)
def test_it_becomes_part_of_the_name(model: str, revision: str, means: str) -> None:
    assert texts(model, revision=(revision,)) == [means]


def test_it_replaces_what_a_family_names() -> None:
    name = families.families()[0].name.replace("_", "-")
    (text,) = texts(name, revision="dev")
    meant = expand(parse_ref(text))
    assert meant.repo == expand(parse_ref(name)).repo
    assert (meant.revision, meant.served_name) == ("dev", name)


def test_each_model_has_its_own(tmp_path: Path) -> None:
    both = ["name=org/name@v1", "two=org/two@v2"]
    assert texts("org/name,org/two", revision=("name:v1", "two:v2")) == both
    assert texts("org/name,org/two", revision="name:v1,v2") == both
    file = tmp_path / "a.yaml"
    file.write_text("revision: v2\nmodels: {name: {model: org/name, revision: v1}, two: org/two}")
    assert texts(None, file) == both
    for each in ("name:v1,two:v2", "[name:v1, v2]", '["name:v1,two:v2"]'):
        file.write_text(f"revision: {each}\nmodels: {{name: org/name, two: org/two}}")
        assert texts(None, file) == both
    environ = {"OPEN_LLM_REVISION": "name:v1,v2"}
    entries = read_configuration("org/name,org/two", {}, environ).entries
    assert [entry.text for entry in entries] == both


def test_one_for_a_model_of_the_file_that_is_not_started(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("revision: two:v2\nmodels: {name: org/name, two: org/two}")
    assert texts("name", file) == ["name=org/name"]
    file.write_text("revision: tow:v2\nmodels: {name: org/name, two: org/two}")
    with pytest.raises(ConfigurationError, match="line 1: revision tow:v2: no model 'tow' is"):
        texts(None, file)
    file.write_text("revision: two:v2\nmodels: {two: {model: org/two, revision: v1}}")
    with pytest.raises(ConfigurationError, match="set the same option; leave one out"):
        texts(None, file)


def test_one_for_all_passes_over_models_that_have_none() -> None:
    assert texts("demo,org/name,org/two@v2", revision=("v1",)) == [
        "demo", "name=org/name@v1", "org/two@v2",
    ]  # fmt: skip


@pytest.mark.spec("S2-21")
@pytest.mark.parametrize(
    ("models", "revision", "says"),
    [
        ("demo", "v1", "--revision: model 'demo' is on this machine and has no revisions"),
        ("org/name,demo", "demo:v1", "model 'demo' is on this machine"),
        ("https://a.example/m.gguf", "v1", "is a file's URL and has no revisions"),
        ("org/name@v2", "v1", "'org/name@v2' names a revision itself; leave one of the two out"),
        ("org/name", "../x", "'../x' is no branch, tag or commit; correct it"),
        ("org/name", "a@b", "'a@b' is no branch, tag or commit; correct it"),
        ("org/name", "name:a:b", "'a:b' is no branch, tag or commit; correct it"),
        ("org/name", "nobody:v1", "--revision nobody:v1: no model 'nobody' is started here"),
        ("org/name", "", "--revision '' must be text that is not empty"),
    ],
)
def test_what_cannot_be_is_refused(models: str, revision: str, says: str) -> None:
    assert says in refusal(models, revision)


def test_all_that_is_wrong_is_told_at_once() -> None:
    assert refusal("a=demo,b=demo", "a:v1", "b:v1").startswith("2 settings are wrong:\n")
