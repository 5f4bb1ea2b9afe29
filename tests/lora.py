"""LoRA adapters made up for tests, in the formats of peft and llama.cpp."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from openllm.models.adapters import adapter_refs, find_adapter
from openllm.types import Adapter
from tests.unit.model_folders import header_of, packed
from tools.llama_gguf import target_name

Array = np.ndarray[Any, np.dtype[np.float32]]
Lora = Mapping[str, tuple[Array, Array]]
"""A [rank, in] and B [out, rank] by the names of layers."""

ALPHA = 16.0
RANK = 4


def matrices(shapes: Mapping[str, tuple[int, ...]], seed: int, size: float = 0.3) -> Lora:
    """Draw matrices for layers of these weights, given by name and shape.

    Attention outputs and the last layers of the MLPs alone are changed, whose rows llama.cpp's
    files have in the same order.
    """
    random = np.random.default_rng(seed)
    found = {}
    for name, shape in shapes.items():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            out, into = shape
            down = random.standard_normal((RANK, into), np.float32) / np.float32(into**0.5)
            up = random.standard_normal((out, RANK), np.float32) * np.float32(size)
            found[name.removesuffix(".weight")] = down, up
    return found


def write_peft(folder: Path, layers: Lora, **config: object) -> Path:
    """Write an adapter as peft's `save_pretrained` does."""
    folder.mkdir(parents=True)
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": RANK,
        "lora_alpha": ALPHA,
        "bias": "none",
        "target_modules": sorted({layer.rpartition(".")[2] for layer in layers}),
    }
    (folder / "adapter_config.json").write_text(json.dumps(settings | config))
    arrays = {
        f"base_model.model.{layer}.lora_{part}.weight": matrix
        for layer, pair in layers.items()
        for part, matrix in zip("AB", pair, strict=True)
    }
    header = header_of({name: ("F32", array.shape) for name, array in arrays.items()})
    weights = b"".join(array.tobytes() for array in arrays.values())
    (folder / "adapter_model.safetensors").write_bytes(packed(header, 0) + weights)
    return folder


def write_gguf(path: Path, layers: Lora) -> Path:
    """Write an adapter as llama.cpp's converter does."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, ALPHA)
    for layer, (down, up) in layers.items():
        target = target_name(f"{layer}.weight")
        writer.add_tensor(f"{target}.lora_a", down)
        writer.add_tensor(f"{target}.lora_b", up)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def merged(name: str, weight: Array, layers: Lora) -> Array:
    """Return a weight with what the adapter adds to it."""
    layer = layers.get(name.removesuffix(".weight"))
    if layer is None:
        return weight
    down, up = layer
    return weight + np.float32(ALPHA / RANK) * (up @ down)


def find_adapters(texts: Sequence[str]) -> tuple[Adapter, ...]:
    """Return adapters that are on this machine, as the option `lora` names them."""
    found = [find_adapter(ref) for ref in adapter_refs(texts)]
    assert None not in found
    return tuple(filter(None, found))
