"""What a download is about to bring: its files with their sizes and hashes, and where they go."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import msgspec

from openllm.config.download import DownloadOptions
from openllm.errors import ModelFetchError, ModelFileError
from openllm.models import store
from openllm.models.hub import RemoteFile, RemoteModel
from openllm.models.ref import ModelRef
from openllm.models.store import StoredModel
from openllm.types import ModelFormat

Framework = Callable[[str, ModelFormat], str]


class Plan(msgspec.Struct, frozen=True):
    """One download; `stopped` is the caller's wish to end it."""

    ref: ModelRef
    remote: RemoteModel
    files: tuple[RemoteFile, ...]
    options: DownloadOptions
    framework: Framework
    stopped: threading.Event

    @property
    def file(self) -> str:
        """The file asked for, where the source may have more; "" for all that it has."""
        return self.files[0].name if self.ref.kind == "hub" and self.ref.file else ""

    @property
    def format(self) -> ModelFormat:
        gguf = any(one.name.lower().endswith(".gguf") for one in self.files)
        return "gguf" if gguf else "safetensors"

    @property
    def total(self) -> int:
        return sum(max(one.size, 0) for one in self.files)

    @property
    def folder(self) -> Path:
        return store.staging(self.remote.source, self.remote.commit, self.file)

    @property
    def refs(self) -> tuple[str, ...]:
        """The branch or tag asked for; none for a commit, or a URL."""
        ref = self.ref.revision or "main"
        return () if self.remote.commit[: len(ref)] == ref or not self.remote.commit else (ref,)

    def named(self, model: StoredModel) -> StoredModel:
        """Let the store remember that the branch or tag asked for means `model`."""
        return store.remember(model, self.refs)

    def stored(self) -> StoredModel | None:
        """Return the model if the store has it; what a URL has now may be another one."""
        if not self.remote.commit:
            return None
        return store.find(self.remote.source, self.remote.commit, self.file)


def sized(files: tuple[RemoteFile, ...]) -> tuple[RemoteFile, ...]:
    """Return the files if all sizes are known: without, neither disk nor transfer has a bound."""
    for one in files:
        if one.size < 0:
            raise ModelFetchError(
                f"the server does not say how long {one.name} is; use another mirror"
                " (--hub-endpoint), or download the file yourself and give its path"
            )
    return files


def pinned(files: tuple[RemoteFile, ...], options: DownloadOptions) -> tuple[RemoteFile, ...]:
    """Return the files, with the hash that the user asks for put in."""
    if options.sha256 is None:
        return files
    asked = options.sha256.lower()
    weights = [one for one in files if one.name.lower().endswith((".gguf", ".safetensors"))]
    if len(weights) != 1:
        raise ModelFileError(
            f"--sha256 is for a model of one weights file, and this has {len(weights)};"
            " pin the commit with @COMMIT instead",
            param="sha256",
        )
    if weights[0].sha256 not in ("", asked):
        raise ModelFileError(
            f"{weights[0].name} has the sha256 {weights[0].sha256}, not the {asked} of --sha256;"
            " nothing was downloaded",
            param="sha256",
        )
    pinned = msgspec.structs.replace(weights[0], sha256=asked)
    return tuple(pinned if one is weights[0] else one for one in files)
