from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from openllm.bento import preflight
from openllm.bento.preflight import check_memory, check_models
from openllm.config.model import LoadOptions, ModelConfig
from openllm.errors import ConfigurationError, ModelFileError, OutOfMemoryError
from openllm.sizes import size_text
from openllm.types import LocalModel
from tests.unit.model_folders import make_folder
from tests.unit.models.gguf_bytes import wide_header


def script(folder: Path, content: Any, name: str = "talk") -> LocalModel:
    path = folder / f"{name}.script.json"
    path.write_text(json.dumps(content))
    return LocalModel(name=name, path=str(path), format="script")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"rulez": []}, "unknown field `rulez`"),
        ({"rules": [{"match": "(", "reply": "x"}]}, "no regular expression"),
        ([], "Expected `object`, got `array`"),
    ],
)
def test_a_wrong_script_is_refused(tmp_path: Path, content: Any, says: str) -> None:
    with pytest.raises(ModelFileError, match=says) as raised:
        check_models([script(tmp_path, content)], ModelConfig())
    assert "talk.script.json" in raised.value.message


def test_every_model_is_checked(tmp_path: Path) -> None:
    good, bad = script(tmp_path, {}, "good"), script(tmp_path, {"rulez": 1}, "bad")
    check_models([good], ModelConfig())
    with pytest.raises(ModelFileError, match=r"bad\.script\.json"):
        check_models([good, bad], ModelConfig())


def test_an_unknown_backend_is_refused(tmp_path: Path) -> None:
    config = ModelConfig(load=LoadOptions(backend="abacus"))
    with pytest.raises(ConfigurationError, match="abacus") as raised:
        check_models([script(tmp_path, {})], config)
    assert raised.value.param == "backend"


MIB = 1 << 20


def sparse(folder: Path, name: str = "big", size: int = 400 * MIB) -> LocalModel:
    """Return a model whose file takes no room on the disk: 128 KiB of KV cache a token."""
    header = wide_header(size)
    path = folder / f"{name}.gguf"
    path.write_bytes(header)
    with path.open("r+b") as file:
        file.truncate(len(header) + size)
    return LocalModel(name=name, path=str(path), format="gguf")


def have(monkeypatch: pytest.MonkeyPatch, free: int, *cards: int) -> None:
    monkeypatch.setattr(preflight, "free_memory", lambda: free)
    monkeypatch.setattr(preflight, "free_cards", lambda: cards)


@pytest.mark.parametrize(("free", "warned"), [(2048 * MIB, False), (500 * MIB, True)])
def test_what_may_fit_is_started(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    free: int,
    warned: bool,
) -> None:
    have(monkeypatch, free)
    with caplog.at_level(logging.WARNING, "openllm"):
        check_memory([(sparse(tmp_path), LoadOptions())])
    assert [bool(caplog.records)] == [warned]
    if warned:
        said = caplog.records[0].getMessage()
        start = r"\d+\.\d MiB of memory are needed at least and 500\.0 MiB are free \(big "
        assert re.match(start, said)
        assert "openllm fit" in said


@pytest.mark.parametrize(
    ("load", "free"),
    [
        (LoadOptions(), 100 * MIB),
        (LoadOptions(context_length=131072, max_concurrency=1), 8 << 30),
        (LoadOptions(context_length=16384), 8 << 30),
    ],
)
def test_what_cannot_fit_is_refused_with_need_and_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, load: LoadOptions, free: int
) -> None:
    have(monkeypatch, free)
    with pytest.raises(OutOfMemoryError) as raised:
        check_memory([(sparse(tmp_path), load)])
    said = raised.value.message
    assert f"{size_text(free)} are free (big " in said
    assert "weights 400.0 MiB" in said
    assert "context_length" in said


def test_a_context_beyond_the_models_own_is_judged_as_what_the_engine_makes_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    have(monkeypatch, 20 << 30)
    load = LoadOptions(context_length=10**9, max_concurrency=1)
    check_memory([(sparse(tmp_path), load)])


@pytest.mark.spec("S3-01")
def test_models_of_one_start_are_summed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = LoadOptions(context_length=8192, max_concurrency=1)
    models = [(sparse(tmp_path, f"m{index}"), load) for index in range(3)]
    have(monkeypatch, 3 << 30)
    check_memory(models[:1])
    with pytest.raises(OutOfMemoryError, match=r"m0 .*; m1 .*; m2 "):
        check_memory(models)


def test_weights_for_the_processor_are_not_counted_on_a_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    have(monkeypatch, 100 * MIB, 80 << 30)
    with pytest.raises(OutOfMemoryError):
        check_memory([(sparse(tmp_path), LoadOptions())])


LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "hidden_size": 4096,
    "max_position_embeddings": 8192,
    "torch_dtype": "float32",
}
CACHE = 2 * 512 * 2 * 16 * 4096 * 4
"""Bytes of the keys and values of 512 tokens, which torch keeps in two columns each."""


@pytest.mark.parametrize(
    ("devices", "cards", "fits"),
    [
        ((None,), (CACHE // 2, CACHE), True),
        (("gpu",), (CACHE // 2, CACHE), True),
        (("gpu:1",), (CACHE // 2, 3 * CACHE), True),
        (("gpu:0",), (CACHE // 2, 3 * CACHE), False),
        (("gpu:0", "gpu:1"), (2 * CACHE, 2 * CACHE), True),
        (("gpu:0", "gpu:0"), (CACHE + CACHE // 2, 9 * CACHE), False),
        ((None, "gpu:0"), (CACHE + CACHE // 8, CACHE // 2), False),
    ],
)
def test_a_model_must_fit_the_cards_that_it_may_fill(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    devices: tuple[str | None, ...],
    cards: tuple[int, ...],
    fits: bool,
) -> None:
    monkeypatch.setattr(preflight, "choose_engine", lambda model, load: Chosen("torch"))
    have(monkeypatch, 0, *cards)
    model = LocalModel(name="m", path=make_folder(tmp_path, LLAMA), format="safetensors")
    models = [(model, LoadOptions(device=each)) for each in devices]
    if fits:
        check_memory(models)
        return
    with pytest.raises(OutOfMemoryError):
        check_memory(models)


def test_the_first_card_is_vllms_as_openllm_fit_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "choose_engine", lambda model, load: Chosen("vllm"))
    model = LocalModel(name="m", path=make_folder(tmp_path, LLAMA), format="safetensors")
    have(monkeypatch, 0, 1 * MIB, 80 << 30)
    with pytest.raises(OutOfMemoryError, match=r"1\.0 MiB are free"):
        check_memory([(model, LoadOptions())])
    check_memory([(model, LoadOptions(engine_arg=("tensor_parallel_size=2",)))])
    with pytest.raises(ConfigurationError, match=r"device gpu:2 \(cuda:2\) is not on"):
        check_memory([(model, LoadOptions(device="gpu:2"))])


@pytest.mark.parametrize("engine", ["torch", "vllm"])
def test_a_card_of_which_nothing_is_known_is_not_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    monkeypatch.setattr(preflight, "choose_engine", lambda model, load: Chosen(engine))
    have(monkeypatch, 0)
    monkeypatch.setattr(preflight, "free_cards", lambda: None)
    model = LocalModel(name="m", path=make_folder(tmp_path, LLAMA), format="safetensors")
    check_memory([(model, LoadOptions())])
    with pytest.raises(OutOfMemoryError):
        check_memory([(model, LoadOptions(device="cpu"))])


class Chosen(NamedTuple):
    """What the choice of an engine comes to here."""

    name: str


def test_models_of_other_engines_are_not_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    have(monkeypatch, 0)
    check_memory([(script(tmp_path, {}), LoadOptions())])
