"""Options by name, and the models they are for."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from openllm.config.flags import read_flags


def devices(value: object, *started: str) -> tuple[object, dict[str, object], list[str]]:
    """Return the device of all, of single models, and the mistakes."""
    mistakes: list[str] = []
    layer = read_flags({"device": value}, started, mistakes)
    general = layer.general.get("device")
    own = {key: values["device"].value for key, values in layer.models.items()}
    return general.value if general else None, own, mistakes


@pytest.mark.spec("S0-36")
@pytest.mark.parametrize(
    "value",
    [
        "flan-t5:cpu,llama:gpu:0",
        ("flan-t5:cpu", "llama:gpu:0"),
        ["llama:gpu:0 , flan-t5:cpu"],
        ("flan_t5:cpu", "llama:gpu:0"),
    ],
)
def test_a_list_and_a_repeated_flag_are_alike(value: object) -> None:
    found = devices(value, "flan-t5", "llama")
    assert found == (None, {"FLAN_T5": "cpu", "LLAMA": "gpu:0"}, [])


@pytest.mark.parametrize("device", ["cpu", "mps", "gpu", "gpu:1", "cuda:0"])
def test_a_plain_device_is_for_all(device: str) -> None:
    assert devices((device,), "demo") == (device, {}, [])
    assert devices((device, "demo:cpu"), "demo") == (device, {"DEMO": "cpu"}, [])


def test_a_name_may_have_colons() -> None:
    assert devices("llama:7b:gpu:0", "llama:7b") == (None, {"LLAMA_7B": "gpu:0"}, [])
    assert devices("llama:gpu", "llama", "llama:7b") == (None, {"LLAMA": "gpu"}, [])


@pytest.mark.spec("S0-36")
@pytest.mark.parametrize(
    ("value", "model", "hint"),
    [
        ("llama:gpu:0", "llama", ""),
        ("llama:7b:cuda:3", "llama:7b", ""),
        ("dmeo:cpu", "dmeo", "; did you mean 'demo'?"),
        ("llama:7b:cpu", "llama:7b", ""),
    ],
)
def test_a_device_of_a_model_that_is_not_started(value: str, model: str, hint: str) -> None:
    assert devices(value, "demo", "two")[2] == [
        f"--device {value}: no model {model!r} is started here, only demo, two{hint}"
    ]


@pytest.mark.parametrize("value", ["cpu,gpu", ("cpu", "gpu")])
def test_two_devices_for_all(value: object) -> None:
    assert devices(value, "demo")[2] == [
        "--device: 'cpu' and 'gpu' are both for all models; leave one out, or say for which model"
        " each is: MODEL:gpu"
    ]


def test_two_devices_of_one_model() -> None:
    (mistake,) = devices("demo:cpu,demo:gpu", "demo")[2]
    assert mistake == "--device: 'cpu' and 'gpu' are both for model 'demo'; leave one out"


@pytest.mark.parametrize(
    ("name", "started", "says"),
    [
        ("demo.port", ("demo",), "--opt demo.port: this is an option of the whole server; write"),
        ("demo.tpo_k", ("demo",), "--opt demo.tpo_k: unknown option 'tpo_k'; did you mean 'top_k'"),
        ("llama.top_k", ("demo",), "--opt llama.top_k: no model 'llama' is started here"),
        ("prot", ("demo",), "unknown option 'prot'; did you mean 'port'"),
    ],
)
def test_what_is_wrong_with_a_name(name: str, started: Sequence[str], says: str) -> None:
    mistakes: list[str] = []
    read_flags({name: "1"}, started, mistakes)
    assert len(mistakes) == 1
    assert mistakes[0].startswith(says)


def test_a_name_with_dots_of_a_model() -> None:
    mistakes: list[str] = []
    layer = read_flags({"Qwen1.5-0.5B.top-k": "1"}, ("Qwen1.5-0.5B",), mistakes)
    assert layer.models["QWEN1_5_0_5B"]["top_k"] == ("1", "--opt Qwen1.5-0.5B.top-k")
    assert not mistakes
