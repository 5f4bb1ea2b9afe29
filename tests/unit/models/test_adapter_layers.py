"""An adapter is for a model that has its layers, in the sizes of its matrices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openllm.config.model import LoadOptions
from openllm.errors import ConfigurationError
from openllm.llm import choice
from openllm.models.adapter_layers import check_layers
from openllm.types import LocalModel
from tests.lora import RANK, find_adapters, write_peft
from tests.unit.model_folders import Tensors, make_folder, safetensors, write

LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_hidden_layers": 2}
PARTS = {"self_attn.q_proj": (8, 8), "mlp.down_proj": (8, 16)}
NAMES = {f"model.layers.{n}.{part}": sizes for n in (0, 1) for part, sizes in PARTS.items()}


def make_model(
    folder: Path,
    layers: dict[str, tuple[int, ...]] = NAMES,
    dtype: str = "F32",
    weight: str = "weight",
    **config: Any,
) -> str:
    folder.mkdir()
    path = make_folder(folder, LLAMA | config, weights=False)
    tensors: Tensors = {f"{name}.{weight}": (dtype, shape) for name, shape in layers.items()}
    biases: Tensors = {f"{name}.bias": ("F32", (8,)) for name in layers}
    (folder / "model.safetensors").write_bytes(safetensors(tensors | biases))
    return path


def check(tmp_path: Path, model: str, layer: str, out: int = 8, into: int = 16) -> None:
    pair = np.zeros((RANK, into), np.float32), np.zeros((out, RANK), np.float32)
    folder = write_peft(tmp_path / "adapter", {layer: pair})
    check_layers(find_adapters([f"sql={folder}"])[0], model)


def test_the_layers_of_the_model(tmp_path: Path) -> None:
    check(tmp_path, make_model(tmp_path / "model"), "model.layers.1.mlp.down_proj")


@pytest.mark.parametrize("layer", ["model.layers.2.mlp.down_proj", "model.layers.0.mlp.c_proj"])
@pytest.mark.spec("S0-27")
def test_a_layer_that_the_model_does_not_have(tmp_path: Path, layer: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        check(tmp_path, make_model(tmp_path / "model"), layer)
    assert caught.value.message == (
        f"the adapter 'sql' is for a layer {layer!r}, which the model does not have; it was made"
        " for another model"
    )
    assert caught.value.param == "lora"


@pytest.mark.spec("S0-27")
def test_a_layer_of_another_size(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        check(tmp_path, make_model(tmp_path / "model"), "model.layers.0.mlp.down_proj", into=32)
    assert "go from 32 to 8 values, and the model's weight is 8 x 16; it was" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "layer"),
    [
        ({"model_type": "unheard_of"}, "model.layers.9.mlp.down_proj"),
        ({"auto_map": {"AutoModel": "x.Y"}}, "model.layers.9.mlp.down_proj"),
        ({}, "lm_head"),
        ({}, "transformer.layers.1.mlp.down_proj"),
        ({"dtype": "I8", "weight": "qweight"}, "model.layers.1.mlp.down_proj"),
        ({"layers": {"h.0.mlp.down_proj": (16, 8)}}, "transformer.h.0.mlp.down_proj"),
        ({"layers": {**NAMES, "model.layers.0.experts.1": (8, 8)}}, "model.layers.0.mlp.gate"),
    ],
)
def test_what_the_names_do_not_tell_is_left_to_the_engine(
    tmp_path: Path, changes: dict[str, Any], layer: str
) -> None:
    check(tmp_path, make_model(tmp_path / "model", **changes), layer)


def test_it_is_told_whichever_engine_runs_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "check_installed", lambda name: None)
    monkeypatch.setattr(choice, "unfit", lambda architecture: None)
    model = make_model(tmp_path / "model")
    write(tmp_path / "model" / "tokenizer.json", {})
    pair = np.zeros((RANK, 16), np.float32), np.zeros((8, RANK), np.float32)
    folder = write_peft(tmp_path / "adapter", {"model.layers.7.mlp.down_proj": pair})
    adapters = find_adapters([f"sql={folder}"])
    local = LocalModel(name="m", path=model, format="safetensors", adapters=adapters)
    for engine in ("torch", "vllm"):
        with pytest.raises(ConfigurationError, match=r"a layer 'model.layers.7.mlp.down_proj'"):
            choice.choose_engine(local, LoadOptions(backend=engine))
        choice.choose_engine(local, LoadOptions(backend=engine, load_format="dummy"))
