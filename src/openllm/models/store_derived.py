"""Which tag a download has by itself, whatever others its user has given to the same files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from openllm.models.store_record import StoredFile, StoredModel
from openllm.models.tags import stored_name


def derived_parts(
    framework: str, *, source: str, revision: str, file: str, files: Sequence[StoredFile]
) -> tuple[str, str]:
    """Return the name and the version of a download for `framework`, an engine's.

    The version is the commit, or of a URL's content, whose name is that of its file, the beginning
    of its hash; other arguments are the fields of `StoredModel`.
    """
    if revision:
        return stored_name(framework, source, file), revision
    return stored_name(framework, PurePosixPath(files[0].name).stem), files[0].sha256[:16]


def derived_tag(model: StoredModel, framework: str) -> str:
    """Return the tag of `model`'s download for `framework`; "" for what nobody downloaded."""
    if not model.revision and ("://" not in model.source or not model.hashed):
        return ""
    name, version = derived_parts(
        framework,
        source=model.source,
        revision=model.revision,
        file=model.file,
        files=model.files,
    )
    return f"{name}:{version}"


def has_derived_tag(model: StoredModel) -> bool:
    """Whether the model's own tag is that of its download, for whatever framework."""
    parts = model.name.split("-")
    beginnings = ("-".join(parts[:end]) for end in range(1, len(parts)))
    return any(derived_tag(model, each) == model.tag for each in beginnings)
