"""How much memory the KV cache gets on a CPU, where it is taken from all the machine has.

On a GPU vLLM measures what is left after the weights and takes nearly all of it.
"""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from openllm.errors import ConfigurationError, OutOfMemoryError
from openllm.sizes import size_text
from openllm.types import LocalModel

logger = logging.getLogger("openllm.engines.vllm")

MOST_BYTES = 4 << 30
"""The KV cache is not made larger than this unless it is asked for, or one context needs more."""
SHARE = 0.5
"""Of the memory that the weights leave free, what the KV cache may fill."""
WORKSPACE = 512 << 20
"""Bytes that computing needs beside weights and KV cache."""


class KVPlan(NamedTuple):
    """Size of the KV cache.

    Attributes:
        context: Tokens one sequence may have.
        tokens: Tokens of all sequences that fit; 0 where that is no matter of tokens.
        size: Bytes they take.
    """

    context: int
    tokens: int
    size: int


def plan_kv_cache(
    model: LocalModel, config: Any, free: int, context: int | None, asked: int | None
) -> KVPlan:
    """Plan the KV cache of a model on the CPU.

    Args:
        model: The model.
        config: vLLM's `VllmConfig` for it.
        free: Bytes that are free before anything is loaded.
        context: The context asked for; None takes the model's, or less if that does not fit.
        asked: The tokens asked for; None takes what `MOST_BYTES` and `SHARE` leave.

    Raises:
        ConfigurationError: `asked` is less than one context.
        OutOfMemoryError: Weights, one context and the workspace need more than is free.
    """
    longest = int(config.model_config.max_model_len)
    if asked is not None and asked < longest:
        if context is not None:
            raise ConfigurationError(
                f"kv_cache_tokens={asked} is less than context_length={context}; one sequence "
                "could not fill its context",
                param="kv_cache_tokens",
            )
        longest = asked
    left = free - (weight_bytes(model.path) or made_up_bytes(config)) - WORKSPACE
    most = left if asked is not None else int(left * SHARE)
    if config.model_config.has_inner_state:  # Its size hardly depends on the tokens.
        return KVPlan(longest, 0, max(0, min(most, MOST_BYTES)))
    per_token = max(1, bytes_per_token(config))
    block = int(config.cache_config.block_size or 16)
    fitting = most // per_token - 2 * block  # vLLM keeps a block for itself.
    if fitting < longest and context is None and fitting >= block:
        logger.warning(
            "model %s: %d of its %d tokens of context fit the memory", model.name, fitting, longest
        )
        longest = fitting
    wanted = asked
    if wanted is None:
        places = int(config.scheduler_config.max_num_seqs)
        wanted = max(longest, min(places * longest, MOST_BYTES // per_token, fitting))
    size = (wanted + 2 * block) * per_token
    if size > most:
        raise _short(model, size - most, left, size, free)
    return KVPlan(longest, wanted, size)


def bytes_per_token(config: Any) -> int:
    """Return the bytes of keys and values that one token takes in all layers."""
    model, parallel = config.model_config, config.parallel_config
    heads = model.get_num_kv_heads(parallel)
    numbers = model.get_num_layers(parallel) * heads * model.get_head_size()
    one_byte = "fp8" in str(config.cache_config.cache_dtype) or "int8" in str(
        config.cache_config.cache_dtype
    )
    width = 1 if one_byte else model.dtype.itemsize
    return int(numbers * width * (1 if model.use_mla else 2))


def weight_bytes(folder: str) -> int:
    """Return the size of the weights in a model folder."""
    return sum(file.stat().st_size for file in Path(folder).glob("*.safetensors"))


def made_up_bytes(config: Any) -> int:
    """Return what weights take that no file has; 0 where transformers does not know the model."""
    from transformers import AutoModelForCausalLM

    from openllm.engines.hf_dummy import random_bytes

    model = config.model_config
    make = partial(AutoModelForCausalLM.from_config, model.hf_config, dtype=model.dtype)
    try:
        return random_bytes(make)
    except Exception:  # Code of any architecture runs in there.
        logger.warning("it is not known how much memory the weights take", exc_info=True)
        return 0


def _short(model: LocalModel, lacking: int, left: int, size: int, free: int) -> OutOfMemoryError:
    return OutOfMemoryError(
        f"model {model.name!r} needs about {size_text(free - left + size)} of memory, of which"
        f" {size_text(size)} for the KV cache, and {size_text(free)} are free; use a smaller"
        f" context_length or kv_cache_tokens, or free {size_text(max(lacking, 0))} more"
    )
