"""Further names of options: as good as a field's own, wherever that is."""

from __future__ import annotations

from pathlib import Path

import pytest

from openllm.bento.options import read_configuration
from openllm.config.fields import ALIASES, FIELDS, other_names
from openllm.errors import ConfigurationError


def test_no_other_name_is_the_name_of_a_field() -> None:
    assert not ALIASES.keys() & FIELDS.keys()
    assert sum(len(other_names(name)) for name in FIELDS) == len(ALIASES)


@pytest.mark.spec("S2-24")
def test_max_model_len_is_context_length_everywhere(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("models: {demo: {max-model-len: 77}}")
    for options, environ, path in (
        ({"max_model_len": "77"}, {}, None),
        ({"demo.max-model-len": "77"}, {}, None),
        ({}, {"OPEN_LLM_MAX_MODEL_LEN": "77"}, None),
        ({}, {"OPEN_LLM_DEMO_MAX_MODEL_LEN": "77"}, None),
        ({}, {}, str(file)),
    ):
        (entry,) = read_configuration("demo", options, environ, file=path).entries
        assert entry.config.load.context_length == 77


def test_two_names_with_two_values_are_a_mistake() -> None:
    with pytest.raises(ConfigurationError, match="set the same option; leave one out"):
        read_configuration("demo", {"max_model_len": "77", "context_length": "78"}, {})


@pytest.mark.spec("S2-23")
@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("auto", "auto"), ("half", "float16"), ("float16", "float16"), ("bfloat16", "bfloat16"),
        ("float", "float32"), ("float32", "float32"),
    ],
)  # fmt: skip
def test_every_spelling_of_a_type(given: str, meant: str) -> None:
    (entry,) = read_configuration("demo", {"dtype": given}, {}).entries
    assert entry.config.load.dtype == meant
