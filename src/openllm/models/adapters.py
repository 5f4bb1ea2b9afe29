"""LoRA adapters: what a model has learned on top, as small weights beside those of the model.

An adapter is a folder as `peft` writes it (https://huggingface.co/docs/peft, "LoRA"), for torch and
vllm, or a GGUF file, for llamacpp. Only its headers are read here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any

from openllm.errors import ConfigurationError, ModelFileError
from openllm.models.folder_files import FolderFiles
from openllm.models.folder_weights import read_shapes
from openllm.models.gguf import file_kind
from openllm.models.gguf_window import shown
from openllm.types import Adapter

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_TENSOR = re.compile(re.escape(PREFIX) + r"(.+)\.lora_([AB])\.weight")
_PATTERN = re.compile(r"\w+(?:\.\w+)*")
_MOST = 1e6
_PLAIN: dict[str, tuple[Any, ...]] = {
    "bias": (None, "none"),
    "use_dora": (None, False),
    "modules_to_save": (None, []),
    "target_parameters": (None, []),
    "trainable_token_indices": (None, [], {}),
    "layer_replication": (None, []),
    "alora_invocation_tokens": (None, []),
}
"""Settings of peft that mean more than two matrices for a layer, with their values for no more."""


def find_adapters(texts: Sequence[str]) -> tuple[Adapter, ...]:
    """Read what the option `lora` names: each NAME=PATH, or PATH of the one that is on by default.

    Raises:
        ConfigurationError: A name is none or stands twice, several have none, or one of them is no
            adapter that can be used; the message names it.
    """
    found: dict[str, Adapter] = {}
    for text in texts:
        name, path = _named(text)
        if name in found:
            both = f"the name {name!r}" if name else "no name"
            raise _refused(
                f"lora {found[name].path!r} and {path!r} both have {both}; give each another, as"
                " in NAME=PATH"
            )
        try:
            found[name] = _read(name, os.path.abspath(os.path.expanduser(path)))
        except ModelFileError as error:
            raise _refused(f"lora {text!r}: {error.message}") from None
    return tuple(found.values())


def _named(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    if not equals or os.sep in name:
        name, path = "", text
    elif not _NAME.fullmatch(name):
        raise _refused(
            f"lora {text!r}: {name!r} cannot be the name of an adapter; use letters, digits, '.',"
            " '_' and '-'"
        )
    if not path:
        raise _refused(f"lora {text!r} has no path; give NAME=PATH or PATH")
    return name, path


def _read(name: str, path: str) -> Adapter:
    if not os.path.exists(path):
        raise ModelFileError(f"{path} does not exist; give a folder or file on this machine")
    if path.endswith(".gguf"):
        _check_gguf(path)
        return Adapter(name=name, path=path, format="gguf")
    return _read_folder(name, path)


def _read_folder(name: str, path: str) -> Adapter:
    files = FolderFiles(path)
    config = files.object(CONFIG)
    if config is None:
        files.fail(CONFIG, "does not exist, so this is no adapter; give a folder that has it")
    _check_plain(files, config)
    if files.size(WEIGHTS) is None:
        files.fail(
            WEIGHTS,
            "does not exist, and adapters of other formats are not opened, as pickles can run"
            " code; save the adapter again with safe_serialization=True",
        )
    ranks, alphas = _ranks(files), _alphas(files, config)
    root = config.get("use_rslora") is True
    scales = {
        layer: _of_layer(alphas, layer) / (rank**0.5 if root else rank)
        for layer, rank in ranks.items()
    }
    rank = max(ranks.values())
    return Adapter(name=name, path=path, format="safetensors", rank=rank, scales=scales)


def _alphas(files: FolderFiles, config: dict[str, Any]) -> dict[str, float]:
    """Return what scales the products: by the ends of layers' names, "" for all others."""
    pattern = config.get("alpha_pattern") or {}
    if not isinstance(pattern, dict) or not all(map(_PATTERN.fullmatch, pattern)):
        files.fail(CONFIG, f"has alpha_pattern {shown(str(pattern))}; only names of layers count")
    alphas = {**pattern, "": config.get("lora_alpha")}
    for alpha in alphas.values():
        if not isinstance(alpha, (int, float)) or not abs(alpha) < _MOST:
            files.fail(CONFIG, f"has lora_alpha {shown(str(alpha))}, which must be a number")
    return alphas


def _of_layer(alphas: dict[str, float], layer: str) -> float:
    ends = (end for end in alphas if f".{layer}".endswith(f".{end}"))
    return alphas[next(ends, "")]


def _ranks(files: FolderFiles) -> dict[str, int]:
    """Return the rank of each layer, of which the file must hold both matrices."""
    shapes = read_shapes(files, WEIGHTS)
    ranks: dict[str, int] = {}
    for name, shape in shapes.items():
        match = _TENSOR.fullmatch(name)
        if match is None or len(shape) != 2:
            files.fail(WEIGHTS, f"has the tensor {shown(name)}, which is none of a linear layer")
        layer, part = match.groups()
        other = shapes.get(f"{PREFIX}{layer}.lora_{'B' if part == 'A' else 'A'}.weight", ())
        if part == "A":
            ranks[layer] = shape[0]
        if len(other) != 2 or (shape[0] != other[1] if part == "A" else shape[1] != other[0]):
            files.fail(WEIGHTS, f"has no two matrices that go together for {shown(layer)}")
    if not ranks or min(ranks.values()) < 1:
        files.fail(WEIGHTS, "holds no matrices; save the adapter again")
    return ranks


def _check_plain(files: FolderFiles, config: dict[str, Any]) -> None:
    if config.get("peft_type") != "LORA":
        files.fail(CONFIG, f"has peft_type {shown(str(config.get('peft_type')))}; only LORA runs")
    for name, plain in _PLAIN.items():
        if config.get(name) not in plain:
            files.fail(
                CONFIG,
                f"has {name} {shown(str(config[name]))}, which is not supported; merge the adapter"
                " into its model with peft's merge_and_unload",
            )


def _check_gguf(path: str) -> None:
    kind = file_kind(path)
    if kind != "adapter":
        raise ModelFileError(
            f"{path!r} is of the type {kind!r}, and no adapter; make one of a peft folder with"
            " llama.cpp's convert_lora_to_gguf.py"
        )


def _refused(message: str) -> ConfigurationError:
    return ConfigurationError(message, param="lora")
