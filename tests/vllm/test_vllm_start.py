"""What keeps a model from being loaded is said by name; nothing is left behind."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from openllm.errors import ConfigurationError, EngineStartError, OutOfMemoryError
from tests.vllm.serving import FOLDER, engine_processes, started

pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

Variant = Callable[..., Path]


@pytest.fixture
def variant(tmp_path: Path) -> Variant:
    """Return what copies the model with another config.json."""

    def make(name: str = "variant", **config: Any) -> Path:
        folder = tmp_path / name
        shutil.copytree(FOLDER, folder)
        known = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(known | config))
        return folder

    return make


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("max_num_seq=3", "did you mean max_num_seqs"),
        ("max_num_seqs=many", "max_num_seqs=many"),
        ("gpu_memory_utilization=7", "less than or equal to 1"),
    ],
)
async def test_a_wrong_engine_argument_is_named(argument: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said) as caught:
        async with started(engine_arg=(argument,)):
            pass
    assert caught.value.param == "engine_arg"


async def test_an_unknown_architecture_is_named(variant: Variant) -> None:
    with pytest.raises(EngineStartError, match="FooForCausalLM"):
        async with started(variant(architectures=["FooForCausalLM"])):
            pass


async def test_a_configuration_that_is_wrong_is_read_once(
    variant: Variant, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "openllm.engines.vllm")
    with pytest.raises(EngineStartError, match=r": The hidden size \(333\) is not a") as caught:
        async with started(variant(hidden_size=333, head_dim=None)):
            pass
    assert "\n" not in caught.value.message
    assert "retrying" not in caplog.text
    with pytest.raises(EngineStartError, match=r"does not know the model type 'nosuch'; install"):
        async with started(variant(model_type="nosuch", name="unknown")):
            pass


@pytest.mark.reliability("F-06")
async def test_a_kv_cache_beyond_the_memory_names_need_and_free() -> None:
    with pytest.raises(OutOfMemoryError, match=r"needs about [\d.]+ .iB .* [\d.]+ .iB are free"):
        async with started(kv_cache_tokens=10**9):
            pass


@pytest.mark.reliability("F-13")
async def test_what_fails_in_vllms_own_process_is_named(variant: Variant) -> None:
    folder = variant()
    (folder / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    with pytest.raises(EngineStartError, match=r"SafetensorError.*header"):
        async with started(folder):
            pass
    assert engine_processes() == []


@pytest.mark.reliability("S-22")
async def test_pickled_weights_are_not_opened(variant: Variant) -> None:
    folder = variant()
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(EngineStartError, match="model weights"):
        async with started(folder):
            pass
