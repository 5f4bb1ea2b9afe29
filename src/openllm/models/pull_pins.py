"""The hash that --sha256 asks for, held against what a hub offers or the store has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

import msgspec

from openllm.errors import ModelFileError

if TYPE_CHECKING:
    from openllm.config.download import DownloadOptions
    from openllm.models.hub import RemoteFile
    from openllm.models.store import StoredFile, StoredModel

_File = TypeVar("_File", "RemoteFile", "StoredFile")


def pinned(files: tuple[RemoteFile, ...], options: DownloadOptions) -> tuple[RemoteFile, ...]:
    """Return the files to download, with the hash that the user asks for put in.

    Raises:
        ModelFileError: They have another one, or the model has several files of weights.
    """
    if options.sha256 is None:
        return files
    asked = options.sha256.lower()
    weights = _weights(files)
    if weights.sha256 not in ("", asked):
        raise _other(weights, asked, "nothing was downloaded")
    pinned = msgspec.structs.replace(weights, sha256=asked)
    return tuple(pinned if one is weights else one for one in files)


def check_pin(model: StoredModel, options: DownloadOptions | None) -> None:
    """Check a stored model by the hash that was recorded when it was stored; reads no file.

    Raises:
        ModelFileError: It is not the one asked for, or the model has several files of weights.
    """
    if options is None or options.sha256 is None:
        return
    weights = _weights(model.files)
    if weights.sha256 != options.sha256.lower():
        advice = f"correct it, or remove {model.tag} (`openllm rm`) and pull it again"
        raise _other(weights, options.sha256.lower(), advice)


def _weights(files: Sequence[_File]) -> _File:
    found = [one for one in files if one.name.lower().endswith((".gguf", ".safetensors"))]
    if len(found) != 1:
        raise ModelFileError(
            f"--sha256 is for a model of one weights file, and this has {len(found)};"
            " pin the commit with @COMMIT instead",
            param="sha256",
        )
    return found[0]


def _other(file: RemoteFile | StoredFile, asked: str, advice: str) -> ModelFileError:
    return ModelFileError(
        f"{file.name} has the sha256 {file.sha256}, not the {asked} of --sha256; {advice}",
        param="sha256",
    )
