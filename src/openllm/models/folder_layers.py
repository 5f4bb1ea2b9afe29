"""Whether a checkpoint has all the layers that its configuration promises, by the tensors' names.

Transformers would make up the weights of a layer that is missing. Judged are only models known to
have weights of their own in every layer; of all others the engine tells when it loads them.
"""

from __future__ import annotations

import re
from typing import Any

from openllm.models.folder_files import FolderFiles
from openllm.models.folder_weights import Weights

_COUNTS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
LAYER = re.compile(r"((?:[a-z_]+\.)*(?:layers|h)\.)([0-9]{1,6})\.")
"""Begins the name of what is in a numbered layer."""

# fmt: off
_JUDGED = frozenset((
    "llama", "mistral", "ministral", "mixtral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "gemma",
    "gemma2", "gemma3_text", "phi", "phi3", "olmo", "olmo2", "olmo3", "olmoe", "stablelm",
    "starcoder2", "cohere", "cohere2", "granite", "granitemoe", "smollm3", "glm", "glm4", "gpt_oss",
    "deepseek_v2", "deepseek_v3", "exaone4", "ernie4_5", "seed_oss", "apertus", "helium", "arcee",
    "gpt2", "gpt_neo", "gpt_neox", "gptj", "gpt_bigcode", "bloom", "falcon", "opt", "codegen",
))
# fmt: on


def check_layers(files: FolderFiles, config: dict[str, Any], weights: Weights) -> None:
    """Fail if a whole layer of the model is missing.

    Args:
        files: The folder.
        config: Content of its `config.json`.
        weights: What its files hold.

    Raises:
        ModelFileError: One is; names the first of them.
    """
    stated = {key: config[key] for key in _COUNTS if isinstance(config.get(key), int)}
    stated = stated if is_judged(config) else {}
    if len(set(stated.values())) != 1:
        return
    key, count = next(iter(stated.items()))
    found = [layer for layer in map(LAYER.match, weights.tensors) if layer]
    there = {int(layer[2]) for layer in found}
    missing = next((number for number in range(count) if number not in there), None)
    if not there or missing is None:
        return
    files.fail(
        weights.listing,
        f"has no tensor of {found[0][1]}{missing}, and config.json promises {count} layers by"
        f" {key}; download the model again, or correct that number",
    )


def is_judged(config: dict[str, Any]) -> bool:
    """Whether the names of the tensors are known to tell which layers the model has."""
    return config.get("model_type") in _JUDGED and not config.get("auto_map")
