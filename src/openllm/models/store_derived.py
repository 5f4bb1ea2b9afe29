"""Which tag a download has by itself, whatever others its user has given to the same files."""

from __future__ import annotations

from pathlib import PurePosixPath

from openllm.models.store_model import ModelRecord, StoredModel
from openllm.models.tags import stored_name

FOR_ADAPTERS = "adapter"
"""What the names of LoRA adapters begin with, in the place of an engine's."""


def derived_parts(framework: str, model: ModelRecord) -> tuple[str, str]:
    """Return the name and the version of a download for `framework`, an engine's.

    The version is the commit, or of a URL's content, whose name is that of its file, the beginning
    of its hash.
    """
    if model.revision:
        return stored_name(framework, model.source, model.file), model.revision
    file = model.files[0]
    return stored_name(framework, PurePosixPath(file.name).stem), file.sha256[:16]


def derived_tag(model: StoredModel, framework: str) -> str:
    """Return the tag of `model`'s download for `framework`; "" for what nobody downloaded."""
    if not model.revision and ("://" not in model.source or not model.hashed):
        return ""
    name, version = derived_parts(framework, model)
    return f"{name}:{version}"


def has_derived_tag(model: StoredModel) -> bool:
    """Whether the model's own tag is that of its download, for whatever framework."""
    parts = model.name.split("-")
    beginnings = ("-".join(parts[:end]) for end in range(1, len(parts)))
    return any(derived_tag(model, each) == model.tag for each in beginnings)
