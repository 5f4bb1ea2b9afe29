"""What a model keeps of each token, as the header of a GGUF file tells it.

The keys are those that llama.cpp reads; which layers of an architecture have a window is written
in its source where the file does not say (src/llama-model.cpp, `set_swa_pattern`).
"""

from __future__ import annotations

from collections import Counter

from msgspec import Struct

from openllm.models.facts_config import Cache, Shape
from openllm.models.gguf import LEAST_CONTEXT, read_contents
from openllm.models.gguf_layout import MAX_LAYERS, STRING
from openllm.models.gguf_metadata import Metadata
from openllm.models.gguf_window import Window

# Every n-th layer has no window. What is absent is computed as if it had none anywhere.
_PERIODS = {
    "gemma2": 2, "gemma3": 6, "gemma3n": 5, "cohere2": 4, "olmo2": 4, "gpt-oss": 2, "llama4": 4,
    "exaone4": 4, "smallthinker": 4,
}  # fmt: skip
_CHUNK = {"llama4": 8192}


class GgufShape(Struct, frozen=True):
    """What the header says of memory, and how many files the model has."""

    architecture: str
    context_length: int | None
    parts: int
    shape: Shape


def gguf_shape(window: Window) -> GgufShape:
    """Read a whole header; raises `ModelFileError` if it is damaged or not of a model."""
    contents = read_contents(window)
    metadata = contents.metadata
    architecture = metadata.text("general.architecture")
    keys = _Keys(metadata, architecture)
    tokens = metadata.array("tokenizer.ggml.tokens", (STRING,))
    layers = min(keys.number("block_count"), MAX_LAYERS)
    experts = keys.number("expert_used_count") or 1
    return GgufShape(
        architecture=architecture,
        context_length=metadata.integer(f"{architecture}.context_length", least=LEAST_CONTEXT),
        parts=contents.parts,
        shape=Shape(
            layers=layers,
            caches=_caches(keys, architecture, layers),
            state=layers * _state(keys),
            vocab_size=tokens.count if tokens else keys.number("vocab_size"),
            hidden_size=keys.number("embedding_length"),
            feed_forward=max(
                *keys.numbers("feed_forward_length"),
                keys.number("expert_feed_forward_length") * experts,
                0,
            ),
        ),
    )


class _Keys:
    """Numbers by the last part of their key."""

    def __init__(self, metadata: Metadata, architecture: str) -> None:
        self._metadata = metadata
        self._architecture = architecture

    def number(self, name: str) -> int:
        """Return a number, 0 where there is none or one for each layer."""
        return self._metadata.integer(f"{self._architecture}.{name}") or 0

    def numbers(self, name: str) -> tuple[int, ...]:
        return self._metadata.numbers(f"{self._architecture}.{name}")

    def of_layers(self, name: str, layers: int) -> list[int]:
        """Return a number for each layer, 0 where there is none."""
        found = self.numbers(name) or (0,)
        return list((found * layers if len(found) == 1 else (*found, *(0,) * layers))[:layers])


def _caches(keys: _Keys, architecture: str, layers: int) -> tuple[Cache, ...]:
    windows = _windows(keys, architecture, layers)
    heads = keys.of_layers("attention.head_count", layers)
    kv_heads = keys.of_layers("attention.head_count_kv", layers)
    if not keys.numbers("attention.head_count_kv"):
        kv_heads = heads
    interval = keys.number("full_attention_interval")
    kept = layers - min(layers, keys.number("attention.shared_kv_layers"))
    counts = Counter(
        (windows[layer], _numbers(keys, heads[layer], kv_heads[layer], windows[layer]))
        for layer in range(kept)
        if not interval or (layer + 1) % interval == 0
    )
    return tuple(
        Cache(layers=count, numbers=numbers, window=window)
        for (window, numbers), count in counts.items()
        if numbers
    )


def _numbers(keys: _Keys, heads: int, kv_heads: int, window: int) -> int:
    if keys.number("attention.key_length_mla"):  # Of a compressed cache values are part of keys.
        return keys.number("attention.key_length")
    default = keys.number("embedding_length") // heads if heads else 0
    key = keys.number("attention.key_length") or default
    value = keys.number("attention.value_length") or default
    if window:
        key = keys.number("attention.key_length_swa") or key
        value = keys.number("attention.value_length_swa") or value
    return kv_heads * (key + value)


def _windows(keys: _Keys, architecture: str, layers: int) -> list[int]:
    window = keys.number("attention.sliding_window") or _CHUNK.get(architecture, 0)
    pattern = keys.numbers("attention.sliding_window_pattern")
    if len(pattern) > 1:
        return [window if flag else 0 for flag in (*pattern, *(0,) * layers)[:layers]]
    period = pattern[0] if pattern else _PERIODS.get(architecture, 0)
    return [window if period and (layer + 1) % period else 0 for layer in range(layers)]


def _state(keys: _Keys) -> int:
    inner = keys.number("ssm.inner_size")
    return inner * (keys.number("ssm.state_size") + keys.number("ssm.conv_kernel"))
