"""Names in the store: as the documents have them, and never one for two models."""

from __future__ import annotations

import hashlib
import string
from pathlib import Path

import pytest
from bentoml import Tag
from hypothesis import given
from hypothesis import strategies as st

from openllm.errors import ConfigurationError
from openllm.models.tags import checked_tag, given_tag, is_part, sha256_of, stored_name

LONG = "org/" + "x" * 80


@pytest.mark.spec("S1-40")
@pytest.mark.parametrize(
    ("framework", "model", "file", "name"),
    [
        ("vllm", "mistralai/Mistral-7B-v0.1", "", "vllm-mistralai--mistral-7b-v0.1"),
        ("torch", "google/flan-t5-large", "", "pt-google--flan-t5-large"),
        ("pt", "google/flan-t5-large", "", "pt-google--flan-t5-large"),
        ("llamacpp", "org/m-GGUF", "m-Q4_K_M.gguf", "llamacpp-org--m-gguf--m-q4_k_m"),
        ("llamacpp", "o/m", "q8/m-00001-of-00003.gguf", "llamacpp-o--m--q8--m"),
        ("llamacpp", "model.q8", "", "llamacpp-model.q8"),
        ("llamacpp", "My:Model ", "", "llamacpp-my-model"),
    ],
)  # fmt: skip
def test_names_are_made_of_framework_repository_and_file(
    framework: str, model: str, file: str, name: str
) -> None:
    assert stored_name(framework, model, file) == name


def test_long_names_stay_apart() -> None:
    names = [stored_name("pt", LONG + end) for end in ("", "a", "b")]
    names += [stored_name("pt", LONG, file) for file in ("a.gguf", "b.gguf")]
    assert len(set(names)) == 5
    assert stored_name("vllm", LONG)[5:] != stored_name("pt", LONG)[3:]
    assert all(len(name) == 63 for name in names)
    digits = hashlib.sha256(f"pt-{LONG}".encode()).hexdigest()[:8]
    assert names[0] == f"pt-org--{'x' * 46}-{digits}"


def test_letters_outside_ascii_do_not_make_one_name_of_two() -> None:
    names = {stored_name("pt", model) for model in ("模型", "型模", "é", "e\u0301", "\u202ee", "e")}
    assert len(names) == 6


@given(
    st.sampled_from(["pt", "vllm", "llamacpp"]),
    st.text(min_size=1, max_size=200),
    st.text(max_size=100),
)
def test_every_name_is_one_that_bentoml_takes(framework: str, model: str, file: str) -> None:
    name = stored_name(framework, model, file)
    assert is_part(name)
    assert Tag(name, "1").name == name


@given(st.text(string.ascii_letters + string.digits + "-._/: \n\u00e9", max_size=70))
def test_a_tag_is_checked_as_bentoml_does(text: str) -> None:
    try:
        Tag(text, text)
        taken = text == text.lower() and "\n" not in text
    except ValueError:
        taken = False
    assert is_part(text) == taken
    if taken:
        assert checked_tag(text, text) == f"{text}:{text}"
    else:
        with pytest.raises(ConfigurationError, match="use at most 63 lower-case letters"):
            checked_tag("fine", text)


@pytest.mark.spec("S1-42")
def test_a_given_tag_is_split() -> None:
    assert given_tag(None, None, None) == (None, None)
    assert given_tag("a:1", None, None) == given_tag(Tag("a", "1"), None, None) == ("a", "1")
    assert given_tag("a", None, None) == ("a", None)
    with pytest.raises(ConfigurationError, match="model_tag excludes"):
        given_tag("a", "b", None)
    with pytest.raises(ConfigurationError, match="model_name is 'A'"):
        given_tag("A:1", None, None)


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1, 5_000_000])
def test_the_hash_of_a_file_is_that_of_all_its_bytes(tmp_path: Path, size: int) -> None:
    content = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    (tmp_path / "f").write_bytes(content)
    assert sha256_of(tmp_path / "f") == hashlib.sha256(content).hexdigest()
