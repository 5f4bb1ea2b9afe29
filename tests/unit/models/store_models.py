"""Models made of a few bytes, and a store to put them into."""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path
from typing import Any

from openllm.models import store
from openllm.models.store import ModelRecord, StoredFile, StoredModel

COMMIT = "0123456789abcdef" * 2 + "01234567"
SHARDS = {
    "config.json": b"{}",
    "model.safetensors.index.json": b'{"weight_map": {"a": "model-00001-of-00002.safetensors"}}',
    "model-00001-of-00002.safetensors": b"1" * 5000,
    "model-00002-of-00002.safetensors": b"2" * 5000,
}


def listed(contents: dict[str, bytes]) -> tuple[StoredFile, ...]:
    """Return the files as a hub would name them."""
    return tuple(
        StoredFile(name, len(content), sha256(content).hexdigest())
        for name, content in contents.items()
    )


def downloaded(folder: Path, contents: dict[str, bytes]) -> Path:
    """Write the files into `folder` as a download would: each appears whole."""
    for name, content in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"part-{os.getpid()}")
        part.write_bytes(content)
        part.replace(path)
    return folder


def added(
    name: str = "pt-org--model",
    version: str = COMMIT,
    contents: dict[str, bytes] = SHARDS,
    **options: Any,
) -> StoredModel:
    """Store a model under BENTOML_HOME."""
    given = {"source": "org/model", "revision": version, **options}
    given.setdefault("format", "gguf" if any(map(_is_gguf, contents)) else "safetensors")
    folder = store.staging(given["source"], version)
    store.begin(folder)
    downloaded(folder, contents)
    given["refs"] = tuple(given.get("refs", ()))
    record = ModelRecord(files=listed(contents), **given)
    return store.add(folder, record, name=name, version=version)


def used_at(model: StoredModel, moment: float) -> None:
    """Set when a model was last used, in seconds since 1970."""
    os.utime(os.path.join(model.folder, "model.yaml"), (moment, moment))


def _is_gguf(name: str) -> bool:
    return name.endswith(".gguf")
