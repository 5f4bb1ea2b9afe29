"""`load_format`, `tokenizer_mode` and `dtype`: what they may be, and that pickles are no choice."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from openllm.cli import main
from openllm.cli.start import start
from openllm.config.model import LoadOptions
from openllm.engines.vllm_arguments import engine_arguments, handed_through
from openllm.errors import ConfigurationError
from openllm.llm.settings import model_settings
from openllm.models.ref import parse_ref
from openllm.types import LocalModel

MODEL = LocalModel(name="m", path="/m", format="safetensors")
KNOWN = ("load_format", "tokenizer", "tokenizer_revision", "trust_remote_code")


@pytest.mark.spec("S2-22")
@pytest.mark.reliability("S-22")
@pytest.mark.parametrize("value", ["pt", "npcache"])
def test_pickles_are_refused_by_name(value: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"{value}'?: pickled weights .* save_pretrained"):
        model_settings(parse_ref("demo"), {"load_format": value}, {})


@pytest.mark.parametrize(
    "wrong", [{"load_format": "gguf"}, {"tokenizer_mode": "fast"}, {"tokenizer": ""}]
)
def test_other_values_are_none(wrong: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        LoadOptions.model_validate(wrong)


@pytest.mark.spec("S2-22")
@pytest.mark.parametrize(
    ("asked", "given"),
    [("auto", "safetensors"), ("safetensors", "safetensors"), ("dummy", "dummy")],
)
def test_what_vllm_is_told(asked: str, given: str) -> None:
    options = LoadOptions.model_validate({"load_format": asked})
    assert engine_arguments(MODEL, options, ())["load_format"] == given


@pytest.mark.spec("S2-20")
def test_vllm_gets_the_tokenizers_folder() -> None:
    assert "tokenizer" not in engine_arguments(MODEL, LoadOptions(), ())
    words = LocalModel(name="w", path="/words", format="safetensors")
    model = LocalModel(name="m", path="/m", format="safetensors", tokenizer=words)
    assert engine_arguments(model, LoadOptions(), ())["tokenizer"] == "/words"


@pytest.mark.reliability("S-22")
@pytest.mark.parametrize("name", KNOWN)
def test_no_way_round_by_an_engine_argument(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"set the option {name} instead"):
        handed_through([f"{name}=pt"], KNOWN)


@pytest.mark.spec("S2-18")
def test_remote_code_is_off_unless_asked_for() -> None:
    assert LoadOptions().trust_remote_code is False
    assert engine_arguments(MODEL, LoadOptions(), ())["trust_remote_code"] is False


@pytest.mark.spec("S2-18")
@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        ([], None),
        (["--trust_remote_code"], True),
        (["--trust-remote-code"], True),
        (["--no-trust-remote-code"], False),
    ],
)
def test_remote_code_is_a_switch_in_both_spellings(
    arguments: list[str], given: bool | None
) -> None:
    parent = main.make_context("openllm", ["start"])
    found = start.make_context("start", ["m", *arguments], parent=parent)
    assert found.params["trust_remote_code"] is given
