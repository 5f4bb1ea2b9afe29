"""Checkpoints that lack whole layers which their configuration promises, told by their headers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from openllm.errors import ModelFileError
from openllm.models.facts import facts_of
from openllm.models.folder import read_folder
from openllm.models.folder_weights import INDEX, SINGLE
from openllm.types import LocalModel
from tests.unit.model_folders import make_folder, safetensors, write

LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}


def weights(*layers: int, prefix: str = "model.layers.") -> bytes:
    names = ["model.norm.weight", *(f"{prefix}{layer}.mlp.up.weight" for layer in layers)]
    return safetensors(dict.fromkeys(names, ("F32", (1,))))


def folder(path: Path, config: dict[str, Any], content: bytes) -> str:
    made = make_folder(path, config, weights=False)
    (path / SINGLE).write_bytes(content)
    return made


@pytest.mark.parametrize(
    ("layers", "config", "missing", "key"),
    [
        ((0, 1, 2, 4, 5), {"num_hidden_layers": 6}, 3, "num_hidden_layers"),
        ((0, 1), {"num_hidden_layers": 50}, 2, "num_hidden_layers"),
        ((0, 1), {"num_hidden_layers": 10**12}, 2, "num_hidden_layers"),
        ((1, 2), {"model_type": "gpt2", "n_layer": 3}, 0, "n_layer"),
    ],
)
def test_a_layer_that_is_missing_is_named(
    tmp_path: Path, layers: tuple[int, ...], config: dict[str, Any], missing: int, key: str
) -> None:
    path = folder(tmp_path, {**LLAMA, **config}, weights(*layers))
    says = rf"{SINGLE} has no tensor of model\.layers\.{missing}, .* by {key}; download"
    with pytest.raises(ModelFileError, match=says):
        read_folder(path)
    with pytest.raises(ModelFileError, match=says):
        facts_of(LocalModel(name="m", path=path, format="safetensors"))
    read_folder(path, weights=False)


def test_the_layers_of_all_shards_count(tmp_path: Path) -> None:
    path = make_folder(tmp_path, {**LLAMA, "num_hidden_layers": 3}, weights=False)
    (tmp_path / "a.safetensors").write_bytes(weights(0, 2))
    (tmp_path / "b.safetensors").write_bytes(weights(1))
    places = {f"model.layers.{n}.mlp.up.weight": f"{'aba'[n]}.safetensors" for n in range(3)}
    write(tmp_path / INDEX, {"weight_map": places})
    read_folder(path)
    write(tmp_path / "config.json", {**LLAMA, "num_hidden_layers": 4})
    with pytest.raises(ModelFileError, match=rf"{INDEX} has no tensor of model\.layers\.3,"):
        read_folder(path)


@pytest.mark.parametrize(
    ("config", "content"),
    [
        ({"num_hidden_layers": 2}, weights(0, 1, 2)),  # More than are used, as for predictions.
        ({"num_hidden_layers": 2}, weights(0, 1, prefix="layers.")),
        ({"num_hidden_layers": 2}, weights(0, 1, prefix="base_model.model.layers.")),
        ({"num_hidden_layers": 9}, weights(0, prefix="blocks.")),
        ({"num_hidden_layers": 9, "auto_map": {"AutoConfig": "x.X"}}, weights(0)),
        ({"num_hidden_layers": 9, "model_type": "albert"}, weights(0)),
        ({"num_hidden_layers": 9, "model_type": "nemotron-nas"}, weights(0, 8)),
        ({"num_hidden_layers": 2, "num_layers": 9}, weights(0, 1)),
        ({"num_hidden_layers": "9"}, weights(0)),
        ({"num_hidden_layers": None}, weights(0)),
        ({"model_type": "llama4", "text_config": {"num_hidden_layers": 9}}, weights(0)),
    ],
    ids=range(11),
)
def test_where_nobody_can_tell_it_is_left_to_the_engine(
    tmp_path: Path, config: dict[str, Any], content: bytes
) -> None:
    path = folder(tmp_path, {**LLAMA, **config}, content)
    assert read_folder(path, trust_remote_code=True).weight_bytes == len(content)
