"""Which family a stored model belongs to, told from where it came from or from its first bytes."""

from __future__ import annotations

import os
from collections.abc import Iterable

import msgspec

from openllm.models import families
from openllm.models.family import Family
from openllm.models.ref import ADAPTER, NO_WEIGHTS
from openllm.models.store import StoredModel

_HEAD_BYTES = 4096
_MAX_CONFIG_BYTES = 1024 * 1024
_ARCHITECTURE = b"general.architecture"
_TYPE = b"general.type"
_STRING = 8  # GGUF's number for the type of a text.

_OTHER_GGUF_NAMES = {
    "command_r": "cohere",
    "cohere2": "cohere",
    "deepseek2": "deepseek_v3",
    "gptneox": "gpt_neox",
    "phi2": "phi",
    "qwen2moe": "qwen2",
    "qwen3moe": "qwen3_moe",
    "starcoder": "starcoder",
}
"""Families by llama.cpp's name of the architecture, where it is not the family's own."""


class _Config(msgspec.Struct):
    architectures: tuple[str, ...] = ()


def items(models: Iterable[StoredModel]) -> dict[str, list[str]]:
    """Return the tags of `models` by the name of their family; those of none are left out."""
    found: dict[str, list[str]] = {}
    for model in models:
        if family := family_of_stored(model):
            found.setdefault(family.name, []).append(model.tag)
    return found


def family_of_stored(model: StoredModel) -> Family | None:
    """Return the family that lists the model's source, else the one that its files name."""
    if model.file in (NO_WEIGHTS, ADAPTER):
        return None
    known = families.family_of_id(model.source) if model.source else None
    if known is not None:
        return known
    if model.format == "gguf":
        return _of_gguf(model.path)
    return _of_config(os.path.join(model.folder, "config.json"))


def _of_gguf(path: str) -> Family | None:
    head = _read(path, _HEAD_BYTES)
    if _text(head, _TYPE) not in ("", "model"):
        return None
    name = _text(head, _ARCHITECTURE).replace("-", "_")
    return families.find(_OTHER_GGUF_NAMES.get(name, name))


def _text(head: bytes, key: bytes) -> str:
    """Return one of the texts that GGUF files name first; "" where it does not come early."""
    _, found, after = head.partition(key)
    kind, length = after[:4], int.from_bytes(after[4:12], "little")
    if not found or int.from_bytes(kind, "little") != _STRING or length > _HEAD_BYTES:
        return ""
    return after[12 : 12 + length].decode(errors="replace")


def _of_config(path: str) -> Family | None:
    try:
        config = msgspec.json.decode(_read(path, _MAX_CONFIG_BYTES), type=_Config)
    except msgspec.MsgspecError:
        return None
    return next(filter(None, map(families.family_of, config.architectures)), None)


def _read(path: str, limit: int) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(limit)
    except OSError:
        return b""
