"""Which of the files that a hub offers make a model, or what is wanted of it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from openllm.errors import ModelFileError, ModelNotFoundError
from openllm.models.adapters import CONFIG, WEIGHTS
from openllm.models.hub import RemoteFile, RemoteModel
from openllm.models.ref import ADAPTER, NO_WEIGHTS, has_quantisation

_SHARD = re.compile(r"^(.*)-\d{5}-of-\d{5}\.gguf$", re.IGNORECASE)
_BESIDE_WEIGHTS = re.compile(
    r"[^/]+\.(json|txt|model|jinja|tiktoken|spm|bpe|codes|vocab|py)|1_Pooling/config\.json"
)
_WEIGHTS = re.compile(r"(?!consolidated)[^/]+\.safetensors")
_ADAPTER_PICKLE = "adapter_model.bin"
_PICKLES = re.compile(r".*\.(bin|pt|pth|ckpt|pkl|msgpack|h5)")


def wanted(remote: RemoteModel, file: str = "") -> tuple[RemoteFile, ...]:
    """Return the files to download: one GGUF file with its shards, or weights and what they need.

    Pickled weights are never taken. `file` is the path of a file or a quantisation such as Q4_K_M,
    or `NO_WEIGHTS`, or `ADAPTER`.

    Raises:
        ModelNotFoundError: There is no such file; those there are, are named.
        ModelFileError: The model has no weights that may be loaded, or several to choose from; or
            it is an adapter where a model is asked for, or none where one is.
    """
    ggufs = [one for one in remote.files if one.is_gguf]
    if file == NO_WEIGHTS:
        return _beside_weights(remote)
    if file == ADAPTER:
        return _adapter(remote, ggufs)
    if file:
        return _asked(remote, file, ggufs)
    if any(_WEIGHTS.fullmatch(one.name) for one in remote.files):
        _refuse_adapter(remote)
        found = [
            one
            for one in remote.files
            if _WEIGHTS.fullmatch(one.name) or _BESIDE_WEIGHTS.fullmatch(one.name)
        ]
        return tuple(found)
    sets = {_set_name(one.name) for one in ggufs if "mmproj" not in one.name.lower()}
    if len(sets) == 1:
        return _with_shards(next(iter(sets)), ggufs)
    raise _no_weights(remote, sorted(sets))


def _beside_weights(remote: RemoteModel) -> tuple[RemoteFile, ...]:
    found = tuple(one for one in remote.files if _BESIDE_WEIGHTS.fullmatch(one.name))
    if not found:
        raise ModelFileError(
            f"{remote.shown} has neither settings nor a tokenizer; choose another repository"
        )
    return found


def _adapter(remote: RemoteModel, ggufs: Sequence[RemoteFile]) -> tuple[RemoteFile, ...]:
    """Return the files of an adapter as peft writes them, and nothing with code."""
    there = {one.name: one for one in remote.files}
    missing = [name for name in (CONFIG, WEIGHTS) if name not in there]
    if not missing:
        return there[CONFIG], there[WEIGHTS]
    problem = f"{remote.shown} has no {missing[0]}"
    if _ADAPTER_PICKLE in there:
        raise ModelFileError(
            f"{problem}, and {_ADAPTER_PICKLE} is a pickle, which can run code when it is opened;"
            " use another revision or adapter, or save it again with safe_serialization=True"
        )
    if ggufs:
        choices = _choices(remote, sorted({_set_name(one.name) for one in ggufs}))
        raise ModelFileError(f"{problem}; if a GGUF file of it is the adapter, name it:{choices}")
    raise ModelFileError(f"{problem}, so it is no LoRA adapter; choose another repository")


def _refuse_adapter(remote: RemoteModel) -> None:
    if any(one.name == CONFIG for one in remote.files):
        use = shlex.quote(f"NAME={remote.shown}")
        raise ModelFileError(
            f"{remote.shown} is a LoRA adapter ({CONFIG}), not a model; give it to the"
            f" model that it was made for: openllm start MODEL --lora {use}, and openllm pull takes"
            " the same"
        )


def _asked(remote: RemoteModel, file: str, ggufs: Sequence[RemoteFile]) -> tuple[RemoteFile, ...]:
    if any(one.name == file for one in ggufs):
        return _with_shards(_set_name(file), ggufs)
    sets = sorted({_set_name(one.name) for one in ggufs if has_quantisation(one.name, file)})
    if len(sets) == 1:
        return _with_shards(sets[0], ggufs)
    if sets:
        raise ModelNotFoundError(
            f"{remote.shown} has several files for {file!r}; choose one:{_choices(remote, sets)}"
        )
    there = sorted({_set_name(one.name) for one in ggufs})
    raise ModelNotFoundError(
        f"{remote.shown} has no GGUF file {file!r};"
        + (f" it has:{_choices(remote, there)}" if there else " it has none at all")
    )


def _set_name(name: str) -> str:
    shard = _SHARD.match(name)
    return f"{shard[1]}.gguf" if shard else name


def _with_shards(name: str, ggufs: Sequence[RemoteFile]) -> tuple[RemoteFile, ...]:
    return tuple(one for one in ggufs if _set_name(one.name) == name)


def _no_weights(remote: RemoteModel, sets: list[str]) -> ModelFileError:
    if sets:
        return ModelFileError(
            f"{remote.shown} has {len(sets)} GGUF files; choose one:{_choices(remote, sets)}"
        )
    _refuse_adapter(remote)
    pickles = [one.name for one in remote.files if _PICKLES.fullmatch(one.name)]
    if pickles:
        return ModelFileError(
            f"{remote.shown} has pickled weights only ({pickles[0]}), which can run code when they"
            " are opened; use a revision or a model with safetensors or GGUF files"
        )
    return ModelFileError(f"{remote.shown} has no safetensors or GGUF files; it is no model")


def _choices(remote: RemoteModel, sets: Sequence[str], most: int = 12) -> str:
    shown = "".join(f"\n  {remote.shown}:{name}" for name in sets[:most])
    return shown + (f"\n  and {len(sets) - most} more" if len(sets) > most else "")
