"""Looking into the store: which models are there, by tag or by where they came from."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from openllm.models.ref import MAIN
from openllm.models.store_damaged import DamagedModel
from openllm.models.store_derived import has_derived_tag
from openllm.models.store_lock import told
from openllm.models.store_model import StoredModel
from openllm.models.store_record import HALF_MADE, examine, models_folder, read
from openllm.models.tags import is_part

LATEST_VERSION = "latest"
_COMMIT_PREFIX = re.compile(r"[0-9a-f]{4,40}")


def stored() -> tuple[StoredModel, ...]:
    """Return every model in the store, sorted by tag; what has no model's format is left out.

    Raises:
        ConfigurationError: The store cannot be read, or is no folder.
    """
    return tuple(model for name in _names() for model in versions(name))


def damaged() -> tuple[DamagedModel, ...]:
    """Return what lies in the place of a model without a record that can be read, sorted by tag."""
    folders = (models_folder() / name for name in _names())
    found = (examine(folder / version) for folder in folders for version in _folders(folder))
    return tuple(model for model in found if isinstance(model, DamagedModel))


def versions(name: str) -> tuple[StoredModel, ...]:
    """Return the stored versions of `name`, sorted."""
    folder = models_folder() / name
    found = (read(folder / version) for version in _folders(folder))
    return tuple(model for model in found if model is not None)


def find_tag(tag: str) -> StoredModel | None:
    """Return the model with this tag: "name:version", "name" or "name:latest" for the newest.

    As with BentoML, a version may be shortened to what only one of them begins with.
    """
    name, _, version = tag.partition(":")
    if not is_part(name):
        return None
    found = versions(name)
    if version in ("", LATEST_VERSION):
        return max(found, key=lambda model: model.created, default=None)
    exact = [model for model in found if model.version == version]
    close = exact or [model for model in found if model.version.startswith(version)]
    return close[0] if len(close) == 1 else None


def find(source: str, revision: str = "", file: str = "") -> StoredModel | None:
    """Return the stored model from `source`, where there are several the newest with a derived tag.

    Args:
        source: Hub id (in any case of letters), URL or absolute path.
        revision: A branch or tag that was asked for at a download, or the commit or its first 4
            digits or more; "" for the main branch, or for any if that was never asked for.
        file: The one file asked for; only a model stored for this file counts.
    """
    found = [model for model in of_source(source, revision) if model.file == file]
    # A branch that is named like a commit's beginning is the branch, and a URL is what it was last.
    asked = revision or (source if "://" in source else MAIN)
    named = [model for model in found if asked in model.refs]
    # The user's own names of it say nothing of what it is: they come after the derived one.
    return max(
        named or found, key=lambda model: (has_derived_tag(model), model.created), default=None
    )


def of_source(source: str, revision: str = "") -> tuple[StoredModel, ...]:
    """Return the stored models from `source`, of all its files, sorted by tag; see `find`."""
    return tuple(
        model for model in stored() if _is_from(model, source) and _is_revision(model, revision)
    )


def _names() -> Iterator[str]:
    return (name for name in _folders(models_folder()) if not name.startswith(HALF_MADE))


def _folders(folder: Path) -> Iterator[str]:
    """Yield the names of the folders in `folder` that BentoML could have made, sorted."""
    names: list[str] = []
    with told(folder), suppress(FileNotFoundError):
        # A file may lie in the place of one model, but not in that of them all.
        if folder.is_dir() or not models_folder().is_dir():
            with os.scandir(folder) as entries:
                names = sorted(entry.name for entry in entries if os.path.isdir(entry.path))
    yield from filter(is_part, names)


def _is_from(model: StoredModel, source: str) -> bool:
    if "://" in source and source in model.refs:
        return True
    return bool(model.source) and _source_key(model.source) == _source_key(source)


def _source_key(source: str) -> str:
    return source if "://" in source or os.path.isabs(source) else source.lower()


def _is_revision(model: StoredModel, revision: str) -> bool:
    if not revision or revision in model.refs:
        return True
    prefix = revision.lower()
    return bool(_COMMIT_PREFIX.fullmatch(prefix)) and model.revision.startswith(prefix)
