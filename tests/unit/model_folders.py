"""Model folders made file by file, with weights of a few bytes."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

BYTES = {"F32": 4, "F16": 2, "BF16": 2, "I8": 1}
Tensors = dict[str, tuple[str, tuple[int, ...]]]


def header_of(tensors: Tensors) -> dict[str, Any]:
    header: dict[str, Any] = {"__metadata__": {"format": "pt", "shape": "none"}}
    at = 0
    for name, (dtype, shape) in tensors.items():
        end = at + BYTES[dtype] * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, end]}
        at = end
    return header


def packed(header: object, size: int) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(size)


def safetensors(tensors: Tensors) -> bytes:
    header = header_of(tensors)
    return packed(header, max(entry["data_offsets"][1] for entry in list(header.values())[1:]))


WEIGHTS = safetensors({"a": ("F32", (2, 3)), "b": ("F32", (1,))})


def write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def make_folder(path: Path, config: dict[str, Any] | None = None, *, weights: bool = True) -> str:
    write(path / "config.json", {"architectures": ["TinyForCausalLM"], **(config or {})})
    if weights:
        (path / "model.safetensors").write_bytes(WEIGHTS)
    return str(path)
