"""Variables and the settings they mean."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from openllm.config.environment import read_environment
from openllm.config.sources import Layer


def read(
    started: Sequence[str] = ("demo",), known: Sequence[str] = (), **variables: str
) -> tuple[Layer, list[str]]:
    mistakes: list[str] = []
    environ = {f"OPEN_LLM_{name}": value for name, value in variables.items()}
    return read_environment({**environ, "PATH": "/bin"}, started, known, mistakes), mistakes


def mistakes_of(started: Sequence[str] = ("demo",), **variables: str) -> list[str]:
    return read(started, **variables)[1]


@pytest.mark.spec("S0-30")
def test_a_field_of_all_models_and_of_one() -> None:
    layer, mistakes = read(("flan-t5",), TOP_K="3", FLAN_T5_TOP_K="4", PORT="80")
    assert not mistakes
    assert {name: given.value for name, given in layer.general.items()} == {
        "top_k": "3",
        "port": "80",
    }
    assert layer.models["FLAN_T5"]["top_k"] == ("4", "OPEN_LLM_FLAN_T5_TOP_K")


def test_a_name_of_dots_and_colons_has_a_variable() -> None:
    layer, mistakes = read(("Qwen1.5-0.5B:a",), QWEN1_5_0_5B_A_SEED="4")
    assert not mistakes
    assert layer.models["QWEN1_5_0_5B_A"]["seed"].value == "4"


def test_the_longest_name_of_a_model_counts() -> None:
    layer, mistakes = read(("llama", "llama-guard"), LLAMA_GUARD_SEED="1", LLAMA_SEED="2")
    assert not mistakes
    assert layer.models["LLAMA_GUARD"]["seed"].value == "1"
    assert layer.models["LLAMA"]["seed"].value == "2"


def test_a_longer_name_leaves_room_for_the_field() -> None:
    layer, mistakes = read(("llama", "llama-top"), LLAMA_TOP_K="3")
    assert not mistakes
    assert layer.models["LLAMA"]["top_k"].value == "3"


def test_a_field_and_a_model_of_one_variable_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("top_k", "k")
    monkeypatch.setattr("openllm.config.environment.MODEL_FIELDS", names)
    assert mistakes_of(("top",), TOP_K="3") == [
        "OPEN_LLM_TOP_K can be top_k of all models and k of model 'top'; give that model another"
        " name with NAME=MODEL"
    ]


def test_known_models_that_are_not_started_have_variables_too() -> None:
    layer, mistakes = read(known=("llama",), LLAMA_TOP_K="3")
    assert not mistakes
    assert layer.models["LLAMA"]["top_k"].value == "3"


@pytest.mark.spec("S0-34")
@pytest.mark.parametrize(
    ("started", "name", "says"),
    [
        ("bloom", "BLOOM_FRQUENCY_PENALTY", "did you mean OPEN_LLM_BLOOM_FREQUENCY_PENALTY?"),
        ("demo", "FRQUENCY_PENALTY", "did you mean OPEN_LLM_FREQUENCY_PENALTY?"),
        ("demo", "DMEO_TOP_K", "did you mean OPEN_LLM_DEMO_TOP_K?"),
        ("demo", "top_k", "did you mean OPEN_LLM_TOP_K?"),
        ("demo", "CONFIG", "did you mean OPEN_LLM_CONFIGURATION?"),
        ("demo", "DEMO_PORT", "an option of the whole server; write OPEN_LLM_PORT"),
        ("demo", "XYZZY_PLUGH", "remove it; `openllm config docs` lists all"),
    ],
)
def test_an_unknown_variable_is_named_with_the_right_one(
    started: str, name: str, says: str
) -> None:
    (message,) = mistakes_of((started,), **{name: "1"})
    assert message.startswith(f"OPEN_LLM_{name}: ")
    assert message.endswith(says)


@pytest.mark.parametrize("name", ["CONFIGURATION", "MODELS", "URL", "COMPARE_API_KEY"])
def test_reserved_names_are_no_fields(name: str) -> None:
    assert read(**{name: "x"}) == (Layer({}, {}), [])


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("STOP_SEQUENCE", "0.234", ("0.234",)),
        ("STOP_SEQUENCE", "\nUser: x", ("\nUser: x",)),
        ("STOP_SEQUENCE", '["a", "b c"]', ["a", "b c"]),
        ("STOP_SEQUENCE", "[INST]", ("[INST]",)),
        ("API_KEY", "one two", ("one", "two")),
        ("API_KEY", "", ("",)),
        ("TEMPERATURE", "0.5", "0.5"),
    ],
)
def test_lists_in_variables(name: str, text: str, value: object) -> None:
    layer, _ = read(**{name: text})
    assert layer.general[name.lower()].value == value


@pytest.mark.parametrize("text", ['["a",', '["a" "b"]', '[ "a'])
def test_a_broken_list_is_no_text(text: str) -> None:
    (told,) = mistakes_of(STOP_SEQUENCE=text)
    assert told.startswith(f"OPEN_LLM_STOP_SEQUENCE {text!r}: this is no list of JSON: ")
    (told,) = mistakes_of(DOWNLOAD_HEADER=text)  # It may hold a secret.
    assert told.startswith("OPEN_LLM_DOWNLOAD_HEADER: this is no list of JSON: ")


@pytest.mark.spec("S0-36")
@pytest.mark.parametrize("text", ["flan-t5:cpu,llama:gpu:0", '["flan-t5:cpu", "llama:gpu:0"]'])
def test_values_for_single_models(text: str) -> None:
    layer, mistakes = read(("flan-t5",), ("llama",), DEVICE=text)
    assert (layer.general, mistakes) == ({}, [])
    found = {key: values["device"] for key, values in layer.models.items()}
    origin = "OPEN_LLM_DEVICE"
    assert found == {"FLAN_T5": ("cpu", origin), "LLAMA": ("gpu:0", origin)}


def test_a_value_for_all_and_for_one() -> None:
    layer, mistakes = read(REVISION="v1,demo:v2", DEVICE="gpu:1")
    assert not mistakes
    assert {name: given.value for name, given in layer.general.items()} == {
        "device": "gpu:1",
        "revision": "v1",
    }
    assert layer.models["DEMO"]["revision"].value == "v2"


def test_a_value_for_a_model_that_nobody_knows() -> None:
    assert mistakes_of(REVISION="demmo:v1") == [
        "OPEN_LLM_REVISION demmo:v1: no model 'demmo' is started here, only demo; did you mean"
        " 'demo'?"
    ]
    mistakes: list[str] = []
    environ = {"OPEN_LLM_REVISION": "demmo:v1,demo:v2"}
    layer = read_environment(environ, ("demo",), (), mistakes, others=True)
    assert (layer.general, mistakes) == ({}, [])
    assert layer.models["DEMO"]["revision"].value == "v2"


def test_a_value_in_the_variable_of_one_model_names_no_other() -> None:
    layer, _ = read(DEMO_DEVICE="demo:cpu")
    assert layer.models["DEMO"]["device"].value == "demo:cpu"  # Which the settings refuse.


def test_two_names_of_one_field_must_agree() -> None:
    assert mistakes_of(STOP="a", STOP_SEQUENCE="b") == [
        "OPEN_LLM_STOP_SEQUENCE and OPEN_LLM_STOP set the same option; leave one out"
    ]
    assert not mistakes_of(STOP="a", STOP_SEQUENCE="a")
