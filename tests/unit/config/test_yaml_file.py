"""The configuration file: what is read from it, and where it says it stands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from openllm.config.yaml_file import Document, is_configuration, read_document


def read(folder: Path, text: str | bytes, name: str = "a.yaml") -> tuple[Document, list[str]]:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    mistakes: list[str] = []
    found = read_document(str(path), mistakes)
    return found, [each.replace(f"{folder}/", "") for each in mistakes]


def test_values_have_their_line(tmp_path: Path) -> None:
    found, mistakes = read(tmp_path, "# first\nport: 80\n\ntop-k: 3\n")
    assert not mistakes
    assert found.values["port"] == (80, f"{tmp_path}/a.yaml, line 2: port")
    assert found.values["top_k"] == (3, f"{tmp_path}/a.yaml, line 4: top-k")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5),
        ("-1.5e3", -1500.0),
        ("1e-3", 0.001),
        ("true", True),
        ("~", None),
        ("", None),
        ("yes", "yes"),
        ("0o17", "0o17"),
        ("1:30", "1:30"),
        ("2020-01-01", "2020-01-01"),
        ("'7'", "7"),
        ("|\n  two\n  lines", "two\nlines\n"),
    ],
)
def test_scalars_are_those_of_json(tmp_path: Path, text: str, value: object) -> None:
    found, mistakes = read(tmp_path, f"prompt: {text}\n")
    assert not mistakes
    assert found.values["prompt"].value == value
    assert type(found.values["prompt"].value) is type(value)


def test_models_as_a_mapping(tmp_path: Path) -> None:
    text = "models:\n  a:\n    model: ./x.gguf\n    top-k: 1\n  demo:\n  b: org/name@main\n"
    found, mistakes = read(tmp_path, text)
    assert not mistakes
    assert [each.text for each in found.models] == ["a=./x.gguf", "demo", "b=org/name@main"]
    assert found.models[0].values["top_k"] == (1, f"{tmp_path}/a.yaml, line 4: models.a.top-k")


@pytest.mark.parametrize("text", ["[demo, 'a=./x.gguf']", "demo, a=./x.gguf"])
def test_models_as_a_list_or_a_text(tmp_path: Path, text: str) -> None:
    found, _ = read(tmp_path, f"models: {text}\n")
    assert [each.text for each in found.models] == ["demo", "a=./x.gguf"]


@pytest.mark.parametrize("indent", [None, 2, "\t"])
def test_json_is_read_with_lines(tmp_path: Path, indent: int | str | None) -> None:
    content = {"prompt": "tab\t smile \U0001f600 /", "stop_sequence": ["a"], "models": {"demo": {}}}
    found, mistakes = read(tmp_path, json.dumps(content, indent=indent), "a.json")
    assert not mistakes
    assert found.values["prompt"].value == content["prompt"]
    assert found.values["stop_sequence"].value == ("a",)
    line = 1 if indent is None else 2
    assert found.values["prompt"].origin.endswith(f"a.json, line {line}: prompt")
    assert found.models[0].text == "demo"


def test_json_of_escaped_slashes(tmp_path: Path) -> None:
    found, mistakes = read(tmp_path, r'{"prompt": "a\/b"}', "a.json")
    assert not mistakes
    assert found.values["prompt"].value == "a/b"


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "\ufeff"])
def test_an_empty_file_says_nothing(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, text) == (Document({}, ()), [])


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("a.yaml", True),
        ("./x/a.yml", True),
        ("a.json", True),
        ("talk.script.json", False),
        ("a.gguf", False),
        ("n=a.yaml", False),
        ("demo", False),
    ],
)
def test_a_file_is_known_by_its_ending(text: str, is_one: bool) -> None:
    assert is_configuration(text) is is_one


def test_many_aliases_cost_nothing(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x]"] + [f"a{n}: &a{n} [{f'*a{n - 1},' * 9}]" for n in range(1, 30)]
    _, mistakes = read(tmp_path, "\n".join(lines))
    assert mistakes == ["a.yaml, line 2: aliases such as *a0 are not read; write the value itself"]


@pytest.mark.parametrize("name", ["a.yaml", "a.json"])
def test_deep_nesting_is_a_mistake_not_a_crash(tmp_path: Path, name: str) -> None:
    for depth in (30, 900, 100_000):
        _, mistakes = read(tmp_path, '{"prompt": ' + "[" * depth + "]" * depth + "}", name)
        assert len(mistakes) == 1
        assert "nested too deeply" in mistakes[0]
