"""What is written down about a stored model, in the `model.yaml` that BentoML reads as well.

The file is JSON, which is YAML too: BentoML loads it with its YAML reader, this room a hundred of
them in a few milliseconds. A model that BentoML or another program stored has no record of ours in
its metadata; its format and its files are then read off its folder, without hashes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import msgspec

from openllm.errors import ConfigurationError
from openllm.models.store_damaged import DamagedModel
from openllm.models.store_model import (
    RECORD,
    ModelRecord,
    StoredFile,
    StoredModel,
    is_gguf,
    is_safe,
)
from openllm.models.tags import content_files
from openllm.types import ModelFormat

LATEST = "latest"
HALF_MADE = "openllm-incoming-"
"""Begins the name of a folder that is not a model yet or no longer."""
_KEY = "openllm"
_MAX_BYTES = 16 * 1024 * 1024
_API_VERSION = "v1"


class _Document(msgspec.Struct):
    """Of BentoML's file, what is read here."""

    creation_time: datetime
    metadata: dict[Any, Any] = {}


def home() -> Path:
    """Return BentoML's folder: BENTOML_HOME, else ~/bentoml. Read anew at every call.

    Raises:
        ConfigurationError: There is no such home folder, as for a user that has neither HOME nor
            an entry in passwd.
    """
    chosen = os.environ.get("BENTOML_HOME") or "~/bentoml"
    path = os.path.expanduser(os.path.expandvars(chosen))
    if path.startswith("~"):
        raise ConfigurationError(
            f"the store of models is {chosen}, and there is no such home folder; set BENTOML_HOME,"
            " or models_dir, to a folder that can be written"
        )
    return Path(os.path.abspath(path))


def models_folder() -> Path:
    """Return where the models lie as `<name>/<version>/`; it may not exist yet."""
    return home() / "models"


def read(folder: Path) -> StoredModel | None:
    """Return the model in `folder`; None if there is none or its format is none of ours."""
    found = examine(folder)
    return found if isinstance(found, StoredModel) else None


def examine(folder: Path) -> StoredModel | DamagedModel | None:
    """Return the model in `folder`, or what is left of it where its record cannot be read.

    None if there is nothing, if its format is none of ours, or if it is not for this user's eyes.
    """
    try:
        return _read(folder)
    except PermissionError:
        return None
    except FileNotFoundError:
        reason = f"{RECORD} is missing"
    except OSError as error:
        reason = f"{RECORD} cannot be read: {error.strerror}"
    except (ValueError, RecursionError):
        reason = f"{RECORD} is not what was written"
    if not folder.is_dir():
        return None
    return DamagedModel(folder.parent.name, folder.name, str(folder), reason)


def _read(folder: Path) -> StoredModel | None:
    with open(folder / RECORD, "rb") as file:
        used = os.fstat(file.fileno()).st_mtime
        document = _document(file.read(_MAX_BYTES))
    if document is None:
        return None
    record = _record(document.metadata.get(_KEY)) or _guess(folder)
    if record is None:
        return None
    created = document.creation_time
    return StoredModel(
        name=folder.parent.name,
        version=folder.name,
        folder=str(folder),
        created=created if created.tzinfo else created.replace(tzinfo=timezone.utc),
        used=datetime.fromtimestamp(used, timezone.utc),
        **record.recorded(),
    )


def write(model: StoredModel, folder: Path) -> None:
    """Write the model's file into `folder`, whole or not at all, and on the disk."""
    from importlib.metadata import version

    record = ModelRecord(**model.recorded())
    document = {
        "name": model.name,
        "version": model.version,
        "module": "",
        "labels": {},
        "options": {},
        "metadata": {_KEY: record},
        "context": {
            "framework_name": model.name.partition("-")[0],
            "framework_versions": {},
            "bentoml_version": version("bentoml"),
            "python_version": ".".join(map(str, sys.version_info[:3])),
        },
        "signatures": {},
        "api_version": _API_VERSION,
        "creation_time": model.created.isoformat(),  # Python 3.10 reads no "Z".
    }
    write_whole(folder / RECORD, msgspec.json.format(msgspec.json.encode(document)))


def write_whole(path: Path, content: bytes) -> None:
    """Replace a file at once: who opens it finds the old or the new content, never a part."""
    new = path.with_name(f".{path.name}-{os.urandom(4).hex()}")
    try:
        with open(new, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)


def _document(content: bytes) -> _Document | None:
    """Read BentoML's file; None for that of a stranger, which is one without a time of creation.

    Raises:
        ValueError: It is no such file any more.
    """
    try:
        return msgspec.json.decode(content, type=_Document)
    except msgspec.DecodeError:
        import yaml

    try:
        # Not libyaml's loader: content nested deeply enough makes it crash the process.
        value = yaml.safe_load(content)
    except Exception as error:  # Its reader knows no bounds to what it raises.
        raise ValueError(str(error)) from error
    try:
        return msgspec.convert(value, _Document)
    except msgspec.ValidationError:
        if isinstance(value, dict) and not _is_ours(value.get("metadata")):
            return None
        raise


def _is_ours(metadata: object) -> bool:
    return isinstance(metadata, dict) and _KEY in metadata


def _record(value: object) -> ModelRecord | None:
    """Return our record if `value` is one; whoever wrote another shape there is a stranger."""
    try:
        record = msgspec.convert(value, ModelRecord)
    except msgspec.ValidationError:
        return None
    return record if record.sound() else None


def _guess(folder: Path) -> ModelRecord | None:
    files = tuple(_listed(folder))
    names = {file.name for file in files}
    form: ModelFormat
    if any(map(is_gguf, names)):
        form = "gguf"
    elif "config.json" in names and any(name.endswith(".safetensors") for name in names):
        form = "safetensors"
    else:
        return None
    return ModelRecord(format=form, source="", revision="", file="", refs=(), files=files)


def _listed(folder: Path) -> Iterator[StoredFile]:
    for file in content_files(folder):
        name = file.relative_to(folder).as_posix()
        if is_safe(name):
            yield StoredFile(name, file.stat().st_size)
