"""What a model keeps of each token, as the `config.json` of a model folder tells it.

The names of the settings are those of transformers and of the models' own code. A value that is
absent or absurd counts as unknown; only the engine that loads the model can judge it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import Struct

_INNER = ("text_config", "llm_config", "language_config", "decoder")
_NO_CACHE = ("linear", "mamba", "recurrent", "conv", "rwkv", "ssm")
# Models whose files may leave out which layers have a window: every n-th has none.
_PERIODS = {"gemma2": 2, "gemma3": 6, "gemma3_text": 6, "cohere2": 4, "gpt_oss": 2}
_MOST = 2**31 - 1
_MAX_LAYERS = 4096

Config = Mapping[str, Any]


class Cache(Struct, frozen=True):
    """Layers that keep alike.

    Attributes:
        layers: How many they are.
        numbers: Of each token in each layer: those of its keys and its values.
        window: Tokens that are kept; 0 keeps all.
    """

    layers: int
    numbers: int
    window: int = 0


class Shape(Struct, frozen=True, kw_only=True):
    """The sizes of a model; a number that is not known is 0.

    Attributes:
        layers: Layers that write; of two halves, the decoder's.
        caches: What they keep of each token; empty where that is not known, or nothing.
        state: Numbers kept of each sequence whatever its length, by recurrent layers.
        vocab_size: Tokens in the vocabulary.
        hidden_size: Width of the hidden state.
        feed_forward: Width within a layer, of all experts that a token uses.
    """

    layers: int = 0
    caches: tuple[Cache, ...] = ()
    state: int = 0
    vocab_size: int = 0
    hidden_size: int = 0
    feed_forward: int = 0


def shape_of_config(config: Config) -> Shape:
    """Return the sizes of the model whose `config.json` is `config`; takes any JSON object."""
    text = _text_part(config)
    layers = min(_layers(text), _MAX_LAYERS)
    windows = _windows(text, layers)
    experts = number(text, "num_experts_per_tok", "moe_top_k") or 1
    return Shape(
        layers=layers,
        caches=_caches(text, windows),
        state=windows.count(None) * _state(text),
        vocab_size=number(text, "vocab_size", "padded_vocab_size"),
        hidden_size=_hidden(text),
        feed_forward=max(
            number(text, "intermediate_size", "ffn_dim", "d_ff", "n_inner", "ffn_hidden_size"),
            number(text, "moe_intermediate_size") * experts,
        ),
    )


def number(config: Config, *names: str) -> int:
    """Return the first of these settings that is a whole number above 0; 0 if none is."""
    for name in names:
        value = config.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _MOST:
            return value
    return 0


def _text_part(config: Config) -> Config:
    """Return the settings with those of the language model, where it is one part of several."""
    for name in _INNER:
        part = config.get(name)
        if isinstance(part, dict) and _layers(part):
            return {**config, **part}
    return config


def _layers(config: Config) -> int:
    names = ("num_decoder_layers", "num_hidden_layers", "n_layer", "n_layers", "num_layers")
    return number(config, *names)


def _hidden(config: Config) -> int:
    return number(config, "hidden_size", "n_embd", "d_model", "dim")


def _heads(config: Config) -> int:
    names = ("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads")
    return number(config, *names)


def _kv_heads(config: Config) -> int:
    """Return the heads of keys and values, as many as of queries where nothing else is said."""
    inner = config.get("attn_config")
    if isinstance(inner, dict) and (count := number(inner, "kv_n_heads")):
        return count
    kind = config.get("model_type")
    shared = config.get("multi_query", kind in ("falcon", "RefinedWebModel", "gpt_bigcode"))
    if shared is True and config.get("new_decoder_architecture") is not True:
        return number(config, "multi_query_group_num") or 1
    return number(config, "num_key_value_heads", "num_kv_heads", "n_head_kv") or _heads(config)


def _windows(config: Config, layers: int) -> list[int | None]:
    """Return the window of each layer that has a cache of its own: 0 none, None no cache."""
    window = number(config, "sliding_window", "attention_chunk_size")
    if config.get("use_sliding_window") is False:
        window = 0
    kinds = config.get("layer_types")
    if isinstance(kinds, list) and len(kinds) >= layers:
        found = [_window_of(str(kind), window) for kind in kinds[:layers]]
    else:
        found = list(_by_period(config, layers, window))
    return found[: layers - min(layers, number(config, "num_kv_shared_layers"))]


def _window_of(kind: str, window: int) -> int | None:
    if any(word in kind for word in _NO_CACHE):
        return None
    return window if "sliding" in kind or "chunked" in kind else 0


def _by_period(config: Config, layers: int, window: int) -> Iterator[int | None]:
    kind = str(config.get("model_type"))
    if kind.startswith(("mamba", "rwkv", "falcon_mamba")):
        yield from [None] * layers
        return
    period = number(config, "sliding_window_pattern", "_sliding_window_pattern")
    period = period or _PERIODS.get(kind, 0)
    linear = number(config, "full_attention_interval")
    for layer in range(layers):
        if linear and (layer + 1) % linear:
            yield None
        else:
            yield 0 if period and (layer + 1) % period == 0 else window


def _caches(config: Config, windows: list[int | None]) -> tuple[Cache, ...]:
    counts = Counter(window for window in windows if window is not None)
    found = ((window, _numbers(config, window), count) for window, count in counts.items())
    return tuple(
        Cache(layers=count, numbers=each, window=window) for window, each, count in found if each
    )


def _numbers(config: Config, window: int) -> int:
    """Return what one layer keeps of a token: of a compressed cache, what it is compressed to."""
    latent, rope = number(config, "kv_lora_rank"), number(config, "qk_rope_head_dim")
    if latent and rope:
        return latent + rope
    heads, kv_heads = _heads(config), _kv_heads(config)
    size = number(config, "head_dim", "kv_channels", "d_kv")
    size = size or (_hidden(config) // heads if heads else 0)
    if not window and number(config, "global_head_dim"):  # Gemma 4: layers without a window.
        size = number(config, "global_head_dim")
        kv_heads = number(config, "num_global_key_value_heads") or kv_heads
    return 2 * kv_heads * size * (2 if _crosses(config) else 1)


def _crosses(config: Config) -> bool:
    """Whether the decoder keeps the encoder's tokens beside its own."""
    return config.get("is_encoder_decoder") is True or "num_decoder_layers" in config


def _state(config: Config) -> int:
    """Return the numbers that one recurrent layer keeps, about."""
    keys = number(config, "linear_num_key_heads") * number(config, "linear_key_head_dim")
    value_heads = number(config, "linear_num_value_heads")
    values = value_heads * number(config, "linear_value_head_dim")
    if values:
        kernel = number(config, "linear_conv_kernel_dim")
        return values * number(config, "linear_key_head_dim") + kernel * (2 * keys + values)
    inner = number(config, "mamba_d_ssm", "mamba_intermediate_size")
    inner = inner or (number(config, "mamba_expand", "expand") or 2) * _hidden(config)
    kernel = number(config, "mamba_d_conv", "conv_kernel", "conv_L_cache") or 4
    return inner * (number(config, "mamba_d_state", "state_size") + kernel)
