"""The engine arguments vLLM is started with: our options in its terms, and those handed through."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from difflib import get_close_matches
from typing import Any

from openllm.config.model import CONCURRENCY, LoadOptions
from openllm.errors import ConfigurationError
from openllm.types import LocalModel

MAX_LOGPROBS = 128

OURS = {
    "model": "it is the model's own path",
    "model_weights": "it is the model's own path",
    "skip_tokenizer_init": "the tokenizer is always needed",
    "load_format": "set the option load_format instead, with which pickles are never opened",
    "tokenizer": "set the option tokenizer instead, from which the chat template comes too",
    "tokenizer_revision": "set the option tokenizer_revision instead",
    "trust_remote_code": "set the option trust_remote_code instead",
}
"""Arguments that cannot be handed through, with the reason."""

LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The largest ranks of adapters that vLLM can be told."""

_WORDS = {"true": True, "false": False, "none": None, "null": None}


def engine_arguments(
    model: LocalModel, options: LoadOptions, known: Collection[str]
) -> dict[str, Any]:
    """Return the arguments for vLLM's `AsyncEngineArgs`; those handed through win over ours.

    White space in JSON output is fixed, as the model could write it without end. One library
    checks all schemas, as vLLM's `auto` keeps for all requests what fits the first.

    Args:
        model: The model to load.
        options: How to load it.
        known: Names of the engine arguments that this vLLM has.

    Raises:
        ConfigurationError: An argument handed through is unknown, malformed or not to be set.
    """
    arguments: dict[str, Any] = {
        "model": model.path,
        "tokenizer_mode": "hf",
        "load_format": "dummy" if options.load_format == "dummy" else "safetensors",
        "trust_remote_code": options.trust_remote_code,
        "dtype": options.dtype,
        "max_num_seqs": options.max_concurrency or CONCURRENCY["vllm"],
        "max_logprobs": MAX_LOGPROBS,
        "structured_outputs_config": {"backend": "guidance", "disable_any_whitespace": True},
        "enforce_eager": options.enforce_eager,
        "enable_log_requests": False,
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
    }
    if model.tokenizer is not None:
        arguments["tokenizer"] = model.tokenizer.path
    if model.adapters:
        rank = max(adapter.rank for adapter in model.adapters)
        arguments |= {
            "enable_lora": True,
            # On a CPU vLLM adds the last place's to requests that have none: it stays empty.
            "max_loras": len(model.adapters) + 1,
            "max_lora_rank": next((most for most in LORA_RANKS if rank <= most), rank),
        }
    if options.context_length is not None:
        arguments["max_model_len"] = options.context_length
    if options.gpu_memory_utilization is not None:
        arguments["gpu_memory_utilization"] = options.gpu_memory_utilization
    if options.prefill_chunk is not None:
        # What a step reads and writes together; vLLM wants room in it for one token of each.
        arguments["max_num_batched_tokens"] = options.prefill_chunk + arguments["max_num_seqs"]
    return arguments | handed_through(options.engine_arg, known)


def handed_through(texts: Iterable[str], known: Collection[str]) -> dict[str, Any]:
    """Read NAME=VALUE texts; a VALUE is JSON, True, False or None, else itself.

    Raises:
        ConfigurationError: One has no name, or a name that is unknown, ours to set or taken.
    """
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        name = name.strip().lstrip("-").replace("-", "_")
        if not equals or not name:
            raise _refused(f"engine_arg {text!r} must be NAME=VALUE, e.g. max_num_seqs=64")
        if name in OURS:
            raise _refused(f"engine_arg {name} cannot be set: {OURS[name]}")
        if name not in known:
            raise _refused(f"vLLM has no engine argument {name!r}{_suggestion(name, known)}")
        if name in found:
            raise _refused(f"engine_arg {name} is given twice; leave one of them out")
        found[name] = _value(value.strip())
    return found


def _value(text: str) -> Any:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        return json.loads(text)
    except ValueError:
        return text


def _suggestion(name: str, known: Collection[str]) -> str:
    close = get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else "; `vllm serve --help=all` lists them"


def _refused(message: str) -> ConfigurationError:
    return ConfigurationError(message, param="engine_arg")
