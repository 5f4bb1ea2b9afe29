"""The table says which options an engine has, and tells the truth."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import openllm.engines
from openllm.config.model import LoadOptions
from openllm.engines import ENGINES, EngineKind, add_engine, engines_with
from openllm.errors import ConfigurationError
from openllm.llm.choice import not_heeded, unheeded

FOLDER = Path(openllm.engines.__file__).parent
ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("engine", ENGINES)
def test_it_lists_what_the_adapter_reads(engine: str) -> None:
    """Where the files of tokenizers and adapters are is found out before the engine sees them."""
    elsewhere = {"tokenizer", "tokenizer_revision", "lora"}
    listed = set(ENGINES[engine].options) - elsewhere
    assert listed == set(_read(engine)) - {"backend"} - elsewhere


def test_every_option_has_an_engine() -> None:
    for option in LoadOptions.model_fields.keys() - {"backend"}:
        assert engines_with(option), option
    assert all(set(kind.options) <= LoadOptions.model_fields.keys() for kind in ENGINES.values())


def test_the_page_has_the_same_table() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    rows = re.findall(r"^\| (`.*) \| *(yes)? *\| *(yes)? *\| *(yes)? *\|$", page, re.MULTILINE)
    told = {
        (option, engine)
        for names, *marks in rows
        for option in re.findall(r"`(\w+)`", names)
        for engine, mark in zip(("llamacpp", "torch", "vllm"), marks, strict=True)
        if mark
    }
    assert told == {
        (option, engine)
        for engine in ("llamacpp", "torch", "vllm")
        for option in ENGINES[engine].options
    }


def test_an_engine_of_others_has_all_unless_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openllm.engines, "ENGINES", dict(ENGINES))
    add_engine("open", "json:JSONDecoder", ["other"])
    add_engine("narrow", "json:JSONDecoder", ["other"], options=["threads"])
    options = LoadOptions(threads=1, enforce_eager=True)
    assert unheeded("open", options) == ()
    assert unheeded("narrow", options) == ("enforce_eager",)
    assert "vllm or open" in not_heeded({"m": "narrow"}, "enforce_eager").message
    with pytest.raises(ConfigurationError, match="'wrong' heeds speed, which LoadOptions does not"):
        add_engine("wrong", "json:JSONDecoder", options=["threads", "speed"])


def test_a_row_written_before_has_all() -> None:
    assert EngineKind("a:B", ("other",)).options == tuple(LoadOptions.model_fields)


def _read(engine: str) -> Iterator[str]:
    """Yield the fields of the load options that the files of an adapter read."""
    for path in FOLDER.glob(f"{engine}_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr in LoadOptions.model_fields:
                owner = node.value
                name = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
                if name in ("options", "_options"):
                    yield node.attr
