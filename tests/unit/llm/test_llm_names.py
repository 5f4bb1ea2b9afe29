"""What a model is called in BentoML's store."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from bentoml import Tag
from bentoml.exceptions import NotFound

import openllm
from openllm.errors import ModelFileError
from openllm.models.tags import content_version, stored_name
from tests.unit.llm.conftest import MakeLLM


@pytest.mark.parametrize(
    ("engine", "model", "name"),
    [
        ("vllm", "mistralai/Mistral-7B-Instruct-v0.1", "vllm-mistralai--mistral-7b-instruct-v0.1"),
        ("torch", "google/flan-t5-large", "pt-google--flan-t5-large"),
        ("llamacpp", "My:Model", "llamacpp-my-model"),
        ("torch", "org/" + "b" * 51 + "-end", "pt-org--" + "b" * 51 + "-end"),
    ],
)
def test_names_are_made_of_framework_and_id(engine: str, model: str, name: str) -> None:
    assert stored_name(engine, model) == name
    assert Tag(name).name == name


@pytest.mark.spec("S1-41")
def test_the_version_of_a_local_model_is_a_hash_of_its_content(make_llm: MakeLLM) -> None:
    llm, same, other = make_llm(), make_llm(), make_llm({"default": {"reply": "else"}})
    name, _, version = llm.tag.partition(":")
    assert name == "scripted-test0"
    assert len(version) == 16
    assert same.tag == f"scripted-test1:{version}"
    assert other.tag.partition(":")[2] != version
    assert str(Tag.from_taglike(llm.tag)) == llm.tag


@pytest.mark.spec("S1-41")
def test_every_file_of_a_folder_counts_and_no_hidden_one(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("config.json", "model.safetensors", "sub/part"):
        (tmp_path / name).write_text(name)
    versions = [content_version(str(tmp_path))]
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "x").write_text("x")
    assert content_version(str(tmp_path)) == versions[0]
    (tmp_path / "sub" / "part").write_text("other")
    versions.append(content_version(str(tmp_path)))
    (tmp_path / "sub" / "part").rename(tmp_path / "sub" / "renamed")
    versions.append(content_version(str(tmp_path)))
    (tmp_path / "more").write_text("")
    versions.append(content_version(str(tmp_path)))
    assert len(set(versions)) == 4
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ModelFileError, match="gone cannot be read"):
        content_version(str(tmp_path))


@pytest.mark.spec("S1-41")
def test_every_part_of_a_file_in_parts_counts(tmp_path: Path) -> None:
    first, second = (tmp_path / f"m-0000{part}-of-00002.gguf" for part in (1, 2))
    first.write_text("first")
    alone = content_version(str(first))
    second.write_text("second")
    (tmp_path / "n-00002-of-00002.gguf").write_text("of another model")
    both = content_version(str(first))
    second.write_text("other, and longer")
    changed = content_version(str(first))
    assert len({alone, both, changed}) == 3
    first.rename(tmp_path / "one.gguf")
    assert content_version(str(tmp_path / "one.gguf")) == alone


@pytest.mark.spec("S1-42")
@pytest.mark.parametrize(
    ("options", "tag"),
    [
        ({"model_name": "mine"}, "mine:{version}"),
        ({"model_version": "2"}, "{name}:2"),
        ({"model_name": "mine", "model_version": "2"}, "mine:2"),
        ({"model_tag": "mine:2"}, "mine:2"),
        ({"model_tag": Tag("mine", "2")}, "mine:2"),
        ({"model_tag": Tag("mine")}, "mine:{version}"),
        ({"model_tag": None}, "{name}:{version}"),
    ],
)
def test_name_version_and_tag_can_be_chosen(
    make_llm: MakeLLM, options: dict[str, Any], tag: str
) -> None:
    name, _, version = make_llm().tag.partition(":")
    llm = make_llm(**options)
    assert llm.tag == tag.format(name=name.replace("0", "1"), version=version)


def test_a_stored_model_is_found_by_its_tag(
    make_llm: MakeLLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bentoml._internal.configuration.containers import BentoMLContainer

    (tmp_path / "store").mkdir()
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "store"))
    BentoMLContainer.bentoml_home.set(str(tmp_path / "store"))  # BentoML reads that once.
    try:
        llm = make_llm(model_tag="mine:2")
        with pytest.raises(NotFound, match=r"no model mine:2; .*models\.create\('mine:2'\)"):
            _ = llm.bentomodel
        _store("mine:2")
        assert str(llm.bentomodel.tag) == "mine:2"
    finally:
        BentoMLContainer.bentoml_home.reset()


def _store(tag: str) -> None:
    import warnings

    import bentoml

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        with bentoml.models.create(tag) as stored:
            Path(stored.path, "weights").write_text("w")


def test_the_demo_is_named_by_its_engine() -> None:
    assert openllm.LLM("demo").tag.startswith("llamacpp-demo:")
    assert os.sep not in openllm.LLM("demo").tag
