"""A Llama in numpy and float32, without cache or batch: what an engine's numbers are held against.

A test with PyTorch holds it against transformers itself.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]


class ReferenceLlama:
    """The model in a folder in the layout of transformers, its weights in bfloat16."""

    def __init__(self, folder: Path) -> None:
        self._config: dict[str, Any] = json.loads((folder / "config.json").read_text())
        self._weights = read_weights(folder / "model.safetensors")

    def logprobs(self, ids: list[int]) -> Array:
        """Return the logprob of each token but the first, after all those before it."""
        hidden = self._weights["model.embed_tokens.weight"][ids]
        for layer in range(self._config["num_hidden_layers"]):
            name = f"model.layers.{layer}"
            hidden = hidden + self._attend(
                f"{name}.self_attn", self._norm(hidden, f"{name}.input_layernorm")
            )
            normed = self._norm(hidden, f"{name}.post_attention_layernorm")
            gate, up = (self._linear(normed, f"{name}.mlp.{each}_proj") for each in ("gate", "up"))
            hidden = hidden + self._linear(gate / (1 + np.exp(-gate)) * up, f"{name}.mlp.down_proj")
        logits = self._norm(hidden, "model.norm") @ self._weights["model.embed_tokens.weight"].T
        logits -= logits.max(-1, keepdims=True)
        logits -= np.log(np.exp(logits).sum(-1, keepdims=True))
        return logits[np.arange(len(ids) - 1), ids[1:]]

    def _linear(self, x: Array, name: str) -> Array:
        return x @ self._weights[f"{name}.weight"].T

    def _norm(self, x: Array, name: str) -> Array:
        mean = np.mean(x * x, -1, keepdims=True)
        return (
            x
            / np.sqrt(mean + np.float32(self._config["rms_norm_eps"]))
            * self._weights[f"{name}.weight"]
        )

    def _attend(self, name: str, x: Array) -> Array:
        size, count = self._config["head_dim"], len(x)
        query, key, value = (
            self._linear(x, f"{name}.{each}_proj").reshape(count, -1, size).swapaxes(0, 1)
            for each in "qkv"
        )
        query, key = self._turned(query), self._turned(key)
        groups = len(query) // len(key)
        key, value = key.repeat(groups, 0), value.repeat(groups, 0)
        scores = query @ key.swapaxes(1, 2) / np.float32(np.sqrt(size))
        scores[:, np.triu(np.ones((count, count), bool), 1)] = -np.inf
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = scores / scores.sum(-1, keepdims=True) @ value
        return self._linear(mixed.swapaxes(0, 1).reshape(count, -1), f"{name}.o_proj")

    def _turned(self, x: Array) -> Array:
        """Return [heads, tokens, size] with their positions in them, from 0 on."""
        half = x.shape[-1] // 2
        speeds = self._config["rope_theta"] ** -(np.arange(half, dtype=np.float32) / half)
        angles = (np.arange(x.shape[1])[:, None] * speeds).astype(np.float32)
        one, other = x[..., :half], x[..., half:]
        cos, sin = np.cos(angles), np.sin(angles)
        return np.concatenate((one * cos - other * sin, other * cos + one * sin), -1)


def read_weights(path: Path) -> dict[str, Array]:
    """Return the bfloat16 tensors of a safetensors file."""
    data = path.read_bytes()
    begin = 8 + int.from_bytes(data[:8], "little")
    found = {}
    for name, about in json.loads(data[8:begin]).items():
        if name == "__metadata__":
            continue
        assert about["dtype"] == "BF16"
        first, last = (begin + offset for offset in about["data_offsets"])
        halves = np.frombuffer(data[first:last], np.uint16).astype(np.uint32)
        found[name] = (halves << 16).view(np.float32).reshape(about["shape"])
    return found
