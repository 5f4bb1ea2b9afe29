"""What a download is about to bring: its files with their sizes and hashes, and where they go."""

from __future__ import annotations

import threading
from pathlib import Path

import msgspec

from openllm.config.download import DownloadOptions
from openllm.models import store
from openllm.models.hub import RemoteFile, RemoteModel
from openllm.models.pull_pins import check_pin
from openllm.models.ref import ADAPTER, MAIN, NO_WEIGHTS, ModelRef
from openllm.models.store import StoredModel
from openllm.types import ModelFormat


class Plan(msgspec.Struct, frozen=True):
    """One download; `cancelled` is the caller's wish to end it."""

    ref: ModelRef
    remote: RemoteModel
    files: tuple[RemoteFile, ...]
    options: DownloadOptions
    cancelled: threading.Event

    @property
    def file(self) -> str:
        """The file asked for, where the source may have more; "" for all that it has."""
        if self.ref.file in (NO_WEIGHTS, ADAPTER):
            return self.ref.file
        return self.files[0].name if self.ref.kind == "hub" and self.ref.file else ""

    @property
    def format(self) -> ModelFormat:
        return "gguf" if any(one.is_gguf for one in self.files) else "safetensors"

    @property
    def known(self) -> int:
        """Bytes of the files whose lengths were told."""
        return sum(max(one.size, 0) for one in self.files)

    @property
    def total(self) -> int:
        """Bytes of the whole model; 0 where a file's length was not told."""
        return self.known if all(one.size >= 0 for one in self.files) else 0

    @property
    def folder(self) -> Path:
        return store.staging(self.remote.source, self.remote.commit, self.file)

    @property
    def refs(self) -> tuple[str, ...]:
        """What was asked for and may mean another content later: the branch or tag, or the URL."""
        if self.ref.kind == "url":
            return (self.ref.source,)
        ref = self.ref.revision or MAIN
        return () if self.remote.commit[: len(ref)] == ref else (ref,)

    def named(self, model: StoredModel) -> StoredModel:
        """Let the store remember that the branch or tag asked for means `model`."""
        return store.remember(model, self.refs)

    def stored(self) -> StoredModel | None:
        """Return the model if the store has it; what a URL has now may be another one.

        Raises:
            ModelFileError: Its hash is not the one asked for.
        """
        if not self.remote.commit:
            return None
        found = store.find(self.remote.source, self.remote.commit, self.file)
        if found is not None:
            check_pin(found, self.options)
        return found
