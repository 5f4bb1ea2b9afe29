"""Every spelling of a model: its parts, and that it prints back as it was typed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openllm.errors import ConfigurationError
from openllm.models.ref import ModelRef, is_model_name, parse_ref

COMMIT = "d632f0c8b75b1ae5b26b250d25bfba4e99cb7c6f"


@pytest.mark.parametrize(
    ("text", "kind", "repo", "revision", "file", "served"),
    [
        ("demo", "name", "", "", "", "demo"),
        ("flan-t5", "name", "", "", "", "flan-t5"),
        ("llama:7b", "name", "", "", "", "llama:7b"),
        ("google/flan-t5-large", "hub", "google/flan-t5-large", "", "", "flan-t5-large"),
        (f"a/b@{COMMIT}", "hub", "a/b", COMMIT, "", "b"),
        ("a/b@refs/pr/1", "hub", "a/b", "refs/pr/1", "", "b"),
        ("a/b@v1.0", "hub", "a/b", "v1.0", "", "b"),
        ("a/b:x.gguf", "hub", "a/b", "", "x.gguf", "b"),
        ("a/b:dir/x y.gguf", "hub", "a/b", "", "dir/x y.gguf", "b"),
        ("a/b@main:dir/x.gguf", "hub", "a/b", "main", "dir/x.gguf", "b"),
        ("a/b:Q4_K_M", "hub", "a/b", "", "Q4_K_M", "b"),
        ("https://h/d/x.gguf", "url", "", "", "x.gguf", "x"),
        ("http://127.0.0.1:80/x%20y.gguf?download=true", "url", "", "", "x y.gguf", "x y"),
        ("HTTPS://H/X.GGUF", "url", "", "", "X.GGUF", "X"),
        ("./folder", "path", "", "", "", "folder"),
        ("../folder/", "path", "", "", "", "folder"),
        ("~/x.gguf", "path", "", "", "", "x"),
        ("/abs/file.gguf", "path", "", "", "", "file"),
        ("file.gguf", "path", "", "", "", "file"),
        ("sub/file.gguf", "path", "", "", "", "file"),
        ("a/b/c", "path", "", "", "", "c"),
        ("./größe.gguf", "path", "", "", "", "größe"),
        ("talk.script.json", "path", "", "", "", "talk"),
    ],
)
def test_every_spelling_has_its_parts(
    text: str, kind: str, repo: str, revision: str, file: str, served: str
) -> None:
    for name, typed in (("", text), ("mine", f"mine={text}")):
        ref = parse_ref(typed)
        assert (ref.kind, ref.repo, ref.revision, ref.file) == (kind, repo, revision, file)
        assert (ref.source, ref.name) == (text, name)
        assert ref.served_name == name or served
        assert str(ref) == typed


@given(st.text())
def test_any_text_prints_back_the_same_or_is_refused(text: str) -> None:
    try:
        parsed = parse_ref(text)
    except ConfigurationError:
        return
    assert str(parsed) == text


NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,20}[A-Za-z0-9]", fullmatch=True)
PARTS = st.from_regex(r"[A-Za-z0-9](?:[_.-]?[A-Za-z0-9]){0,10}", fullmatch=True)
FILES = st.lists(PARTS, min_size=1, max_size=3).map(lambda parts: "/".join(parts) + ".gguf")
QUANTISATIONS = st.from_regex(r"I?Q[1-8]_[0-9A-Z](?:_[SML])?|BF16|UD-Q4_K_XL", fullmatch=True)
REVISIONS = st.lists(PARTS, min_size=1, max_size=3).map("/".join)


@st.composite
def spellings(draw: st.DrawFn) -> str:
    """Any reference that the grammar allows."""
    name = draw(st.just("") | NAMES.filter(is_model_name).map("{}=".format))
    repo = f"{draw(PARTS)}/{draw(PARTS)}"
    hub = repo + draw(st.just("") | REVISIONS.map("@{}".format))
    hub += draw(st.just("") | FILES.map(":{}".format) | QUANTISATIONS.map(":{}".format))
    url = f"https://{draw(PARTS)}/{draw(FILES)}"
    path = draw(st.sampled_from(["./", "../", "~/", "/"])) + draw(FILES)
    return name + draw(st.sampled_from([draw(NAMES), hub, url, path]))


@given(spellings())
def test_whatever_the_grammar_allows_comes_back_part_by_part(text: str) -> None:
    try:
        ref = parse_ref(text)
    except ConfigurationError:
        assert ".git" in text or ".." in text
        return
    assert str(ref) == text
    assert parse_ref(str(ref)) == ref
    assert parse_ref(ref.source) == ModelRef(
        ref.source, kind=ref.kind, repo=ref.repo, revision=ref.revision, file=ref.file
    )
    if ref.kind == "hub":
        revision = f"@{ref.revision}" if ref.revision else ""
        file = f":{ref.file}" if ref.file else ""
        assert ref.repo + revision + file == ref.source


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x=", "has nothing after '='"),
        ("=demo", "'' cannot be the name of a model"),
        (" demo", "begins or ends with a space"),
        ("x= demo", "begins or ends with a space"),
        ("ftp://host/x.gguf", "cannot be fetched by ftp; write https:// or a path"),
        ("https://host/x.bin", "must end with NAME.gguf"),
        ("https://host/.gguf", "must end with NAME.gguf"),
        ("https:///x.gguf", "is no URL of a file"),
        ("https://host:x/x.gguf", "is no URL"),
        ("https://host/x.gguf#y", "is no URL of a file"),
        ("a/b@", "no valid revision"),
        ("a/b@x//y", "no valid revision"),
        ("a/b:", "no GGUF file after ':'"),
        ("a/b:model.safetensors/x", "no GGUF file after ':'"),
        ("a/b:/etc/x.gguf", "no GGUF file after ':'"),
        ("a/b:x.gguf@main", "no GGUF file after ':'"),
        ("a--b/c@main", "no valid ORG/NAME"),
        ("~other/x.gguf", "write its path from /"),
    ],
)
def test_wrong_parts_are_named(text: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        parse_ref(text)
    assert said in raised.value.message


def test_a_password_in_a_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigurationError) as raised:
        parse_ref("https://me:hunter2@host/x.gguf")
    assert "hunter2" not in raised.value.message
    assert "--download-header" in raised.value.message


@pytest.mark.spec("S3-08")
@pytest.mark.parametrize(
    ("name", "fits"),
    [
        ("Qwen1.5-0.5B-Chat", True),
        ("a_b:c-d.e", True),
        ("a" * 128, True),
        ("a" * 129, False),
        ("a/b", False),
        ("a b", False),
        ("é", False),
        ("..", False),
        (".x", False),
        ("-x", False),
        ("x.", False),
        ("", False),
    ],
)
def test_names_that_requests_can_use(name: str, fits: bool) -> None:
    assert is_model_name(name) is fits
