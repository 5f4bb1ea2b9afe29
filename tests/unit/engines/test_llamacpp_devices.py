"""`device` on llama.cpp: honoured, or refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import xllamacpp

import openllm
from openllm.config.model import LoadOptions
from openllm.engines.llamacpp_load import common_params
from openllm.errors import ConfigurationError
from openllm.types import LocalModel

DEMO = LocalModel(
    name="demo",
    path=str(Path(openllm.__file__).parent / "demo" / "demo-q8_0.gguf"),
    format="gguf",
)
CARD = {"name": "CUDA0", "type": xllamacpp.ggml_backend_dev_type.GGML_BACKEND_DEVICE_TYPE_GPU}


def test_on_the_processor_no_layer_goes_to_a_card() -> None:
    assert common_params(DEMO, LoadOptions(device="cpu")).n_gpu_layers == 0
    assert common_params(DEMO, LoadOptions()).n_gpu_layers == -1


@pytest.mark.parametrize("device", ["cuda", "gpu:0", "mps"])
def test_a_device_that_is_not_there_is_refused(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(xllamacpp, "get_device_info", list)
    with pytest.raises(ConfigurationError, match="sees no GPU; give cpu, or leave") as told:
        common_params(DEMO, LoadOptions(device=device))
    typed = {"cuda": "gpu (cuda)", "gpu:0": "gpu:0 (cuda:0)", "mps": "mps"}[device]
    assert told.value.message.startswith(f"device {typed}: the installed llama.cpp sees no GPU;")
    assert "--" not in told.value.message  # It is told in Python as well, which has no flags.


def test_a_numbered_card_holds_the_whole_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xllamacpp, "get_device_info", lambda: [CARD, CARD])
    params = common_params(DEMO, LoadOptions(device="gpu:1"))
    assert params.main_gpu == 1
    assert params.split_mode == xllamacpp.llama_split_mode.LLAMA_SPLIT_MODE_NONE
    with pytest.raises(ConfigurationError, match=r"device gpu:2 \(cuda:2\): "):
        common_params(DEMO, LoadOptions(device="cuda:2"))
