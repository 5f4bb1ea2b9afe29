"""LoRA adapters: what a model has learned on top, as small weights beside those of the model.

An adapter is a folder as `peft` writes it (https://huggingface.co/docs/peft, "LoRA"), for torch and
vllm, or a GGUF file, for llamacpp; on this machine, in a repository on the hub, or behind a URL.
Only its headers are read here, and the network is never asked.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

from msgspec.structs import replace

from openllm.errors import ConfigurationError, ModelFileError, OpenLLMError
from openllm.models.folder_files import FolderFiles
from openllm.models.folder_weights import read_shapes
from openllm.models.gguf import file_kind
from openllm.models.gguf_window import shown
from openllm.models.locate import stored_model
from openllm.models.ref import ADAPTER, ModelRef, parse_ref, shown_source
from openllm.models.store import StoredModel, blamed, quick_check
from openllm.types import Adapter

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."

Shape = tuple[int, ...]

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


def adapter_refs(texts: Sequence[str]) -> tuple[ModelRef, ...]:
    """Tell what the option `lora` names: each NAME=SOURCE, or SOURCE of the one that is always on.

    A source is what exists here, or a path, a hub id, a GGUF file of one, or a URL, as of a model.

    Raises:
        ConfigurationError: A name or a source is none, a name stands twice, or several have none.
    """
    found: dict[str, ModelRef] = {}
    for text in texts:
        ref = _parsed(text)
        if ref.name in found:
            both = f"the name {ref.name!r}" if ref.name else "no name"
            first, second = (shown_source(each.source) for each in (found[ref.name], ref))
            raise _refused(
                f"lora {first!r} and {second!r} both have {both}; give each another, as in"
                " NAME=PATH"
            )
        found[ref.name] = ref
    return tuple(found.values())


def check_names(served: Iterable[Iterable[str]]) -> None:
    """Check that no two models or adapters that are served together have one name.

    Args:
        served: Of each model, its name and those of its adapters; "" is none.

    Raises:
        ConfigurationError: Two have; names them.
    """
    seen: set[str] = set()
    for name in filter(None, chain.from_iterable(served)):
        if name in seen:
            raise _refused(
                f"two models or adapters are called {name!r}; give each a name of its own, and an"
                " adapter to the model that it is for"
            )
        seen.add(name)


def find_adapter(ref: ModelRef) -> Adapter | None:
    """Return an adapter that is on this machine; None if it is to be fetched.

    Args:
        ref: One of `adapter_refs`.

    Raises:
        ConfigurationError: It is no adapter that can be used; the message names it.
    """
    with blaming(ref):
        if ref.kind == "path":
            return _read(ref.name, os.path.abspath(os.path.expanduser(ref.source)))
        if (known := stored_model(ref)) is None:
            return None
        quick_check(known)
    return stored_adapter(ref, known)


def stored_adapter(ref: ModelRef, known: StoredModel) -> Adapter:
    """Return an adapter of the store; errors as in `find_adapter`."""
    with blaming(ref), blamed(known.tag):
        return replace(_read(ref.name, known.path), tag=known.tag)


@contextmanager
def blaming(ref: ModelRef) -> Iterator[None]:
    """Have errors name the adapter; those of its files are mistakes of the option `lora`."""
    text = shown_source(str(ref))
    try:
        yield
    except ModelFileError as error:
        raise _refused(f"lora {text!r}: {error.message}") from None
    except OpenLLMError as error:
        raise type(error)(
            f"lora {text!r}: {error.message}",
            param=error.param,
            code=error.code,
            retry_after=error.retry_after,
        ) from error


def _parsed(text: str) -> ModelRef:
    name, equals, source = text.partition("=")
    if not equals or "/" in name:
        name, source = "", text
    elif not _NAME.fullmatch(name):
        raise _refused(
            f"lora {shown_source(text)!r}: {name!r} cannot be the name of an adapter; use letters,"
            " digits, '.', '_' and '-'"
        )
    if not source:
        raise _refused(f"lora {text!r} has no path; give NAME=PATH or PATH")
    if os.path.exists(os.path.expanduser(source)):
        return ModelRef(source, name, "path")
    try:
        ref = parse_ref(source)
    except ConfigurationError as error:
        raise _refused(f"lora {shown_source(text)!r}: {error.message}") from None
    if ref.name or ref.kind in ("name", "path"):
        return ModelRef(source, name, "path")
    return replace(ref, name=name, file=ref.file or ADAPTER)


def _read(name: str, path: str) -> Adapter:
    if not os.path.exists(path):
        raise ModelFileError(
            f"{path} does not exist; give a folder or file on this machine, a hub id such as"
            " org/name or org/name:file.gguf, or a URL"
        )
    if path.endswith(".gguf"):
        _check_gguf(path)
        return Adapter(name=name, path=path, format="gguf", size=os.path.getsize(path))
    return _read_folder(name, path)


def _read_folder(name: str, path: str) -> Adapter:
    files = FolderFiles(path)
    config = files.object(CONFIG)
    if config is None:
        files.fail(CONFIG, "does not exist, so this is no adapter; give a folder that has it")
    _check_plain(files, config)
    size = files.size(WEIGHTS)
    if size is None:
        files.fail(
            WEIGHTS,
            "does not exist, and adapters of other formats are not opened, as pickles can run"
            " code; save the adapter again with safe_serialization=True",
        )
    ranks = {layer: down[0] for layer, (down, _) in _pairs(files).items()}
    alphas = _alphas(files, config)
    root = config.get("use_rslora") is True
    scales = {
        layer: _of_layer(alphas, layer) / (rank**0.5 if root else rank)
        for layer, rank in ranks.items()
    }
    rank = max(ranks.values())
    return Adapter(name=name, path=path, format="safetensors", rank=rank, scales=scales, size=size)


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


def layer_sizes(path: str) -> dict[str, tuple[int, int]]:
    """Return what the matrices of each layer take and give, of an adapter that was read before.

    Raises:
        ModelFileError: Its file was damaged meanwhile.
    """
    files = FolderFiles(path)
    return {layer: (down[1], up[0]) for layer, (down, up) in _pairs(files).items()}


def _pairs(files: FolderFiles) -> dict[str, tuple[Shape, Shape]]:
    """Return the shapes [rank, in] and [out, rank] of each layer; the file must hold both."""
    shapes = read_shapes(files, WEIGHTS)
    pairs: dict[str, tuple[Shape, Shape]] = {}
    for name, shape in shapes.items():
        match = _TENSOR.fullmatch(name)
        if match is None or len(shape) != 2:
            files.fail(WEIGHTS, f"has the tensor {shown(name)}, which is none of a linear layer")
        layer = match[1]
        down, up = (shapes.get(f"{PREFIX}{layer}.lora_{part}.weight", ()) for part in "AB")
        if not len(down) == len(up) == 2 or down[0] != up[1]:
            files.fail(WEIGHTS, f"has no two matrices that go together for {shown(layer)}")
        pairs[layer] = down, up
    if not pairs or min(down[0] for down, _ in pairs.values()) < 1:
        files.fail(WEIGHTS, "holds no matrices; save the adapter again")
    return pairs


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
