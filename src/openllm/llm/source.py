"""Where the files of one `openllm.LLM` are: known at once, or found out by its first use.

Knows nothing of engines at work, nor of event loops: `get` blocks.
"""

from __future__ import annotations

import threading

from openllm.config.download import DownloadOptions
from openllm.config.model import LoadOptions
from openllm.engines import check_installed, engine_name
from openllm.llm.ahead import engine_ahead
from openllm.llm.choice import choose_engine, not_heeded, unheeded
from openllm.llm.fetching import check_hash, for_engine, store_as
from openllm.llm.model_files import fetch_files, find_files
from openllm.models.locate import expand, from_store
from openllm.models.offers import asked_once
from openllm.models.ref import ModelRef
from openllm.models.revision import with_revision
from openllm.models.store import StoredModel, find_tag
from openllm.models.store_names import tagged
from openllm.models.tags import checked_tag, content_version, stored_name
from openllm.types import LocalModel


class ModelSource:
    """One model's files, its engine and its tag in the store, each found out once.

    Attributes:
        name: The model's name in messages and logs.
    """

    def __init__(
        self,
        ref: ModelRef,
        load: LoadOptions,
        download: DownloadOptions | None = None,
        tag: tuple[str | None, str | None] = (None, None),
        *,
        given: LoadOptions | None = None,
    ) -> None:
        """Look for the model on this machine; downloads nothing.

        Args:
            ref: As the user typed it.
            load: How it will be loaded; its engine, if one was chosen, is checked.
            download: How to download, if that must be.
            tag: The name and the version chosen for the store, None where they are derived.
            given: Of `load` what the user set, which the engine must have; all of it if left out.

        Raises:
            ConfigurationError: The name is unknown, or the engine cannot run the model or lacks an
                option that is given.
            EngineNotInstalledError: The engine's package is missing.
        """
        if download is not None and download.revision is not None:
            ref = with_revision(ref, download.revision)
        self._meant = expand(ref)
        self.name = self._meant.served_name
        self._ref = ref
        self._load = load
        self._given = load if given is None else given
        self._download = download
        self._name, self._version = tag
        self._lock = threading.Lock()
        self._cancelled = threading.Event()
        self._engine: str | None = None
        self._local = self._here()
        if self._local is not None:
            self._engine = self._chosen(self._local)
        elif load.backend:
            self._engine = engine_name(load.backend)
            check_installed(self._engine)
        elif self._meant.kind == "url" or self._meant.file:
            self._engine = "llamacpp"  # What is asked for is a GGUF file.

    @property
    def engine(self) -> str | None:
        """The engine that runs the model; None while the files that decide it are not here."""
        return self._engine

    def get(self) -> LocalModel:
        """Return the model, downloaded if it is not here. Blocks, for many threads only once.

        Raises:
            OpenLLMError: The download failed, or the engine cannot run the model.
        """
        with self._lock:
            if self._local is None:
                self._cancelled.clear()
                self._local = self._here() or self._fetched()
                self._engine = self._chosen(self._local)
            return self._local

    def cancel(self) -> None:
        """Stop a download under way in another thread; what has arrived is kept for the next."""
        self._cancelled.set()

    def tag(self) -> str:
        """Return the model's "name:version" in the store.

        Blocks: a local model's files are read wholly, and an id that is not here is downloaded
        unless its commit and engine are known.
        """
        name, version = self._name, self._version or self._version_here()
        if name is None or version is None:
            own_name, own_version = self._derived().split(":")
            name, version = name or own_name, version or own_version
        return checked_tag(name, version)

    def stored(self) -> str:
        """Return `tag()`, where the store now holds the model if it came from an id or a URL."""
        tag = self.tag()
        known = self._in_store(self.get())
        if known is not None and known.tag != tag:
            store_as(self.get(), known, *tag.split(":"))
        return tag

    def _chosen(self, model: LocalModel) -> str:
        engine = choose_engine(model, self._load).name
        for option in unheeded(engine, self._given):
            raise not_heeded({self.name: engine}, option)
        return engine

    def _here(self) -> LocalModel | None:
        """Return the model if it is on this machine: under the chosen tag, or by its source."""
        found = find_files(self._ref, self._load, self._tagged())
        if found is not None:
            check_hash(found, self._download)
        return found

    def _tagged(self) -> LocalModel | None:
        if not self._name or self._meant.kind not in ("hub", "url"):
            return None
        known = tagged(self._name, self._version, self._meant)
        return from_store(self._meant, known) if known else None

    def _fetched(self) -> LocalModel:
        options, tagged = self._download or DownloadOptions(), self._tagged()
        with asked_once():
            if tagged is None or self._load.lora:
                engine_ahead(self._ref, self._load, options, self._cancelled)
            return fetch_files(
                self._ref, self._load, options, model=tagged, cancelled=self._cancelled
            )

    def _derived(self) -> str:
        commit = self._meant.revision
        plain = self._meant.kind == "hub" and not self._meant.file
        if self._local is None and plain and self._engine and _is_commit(commit):
            return f"{stored_name(self._engine, self._meant.repo)}:{commit}"
        local = self.get()
        engine = self._engine or choose_engine(local, self._load).name
        if local.tag:
            return for_engine(local, engine).tag
        return f"{stored_name(engine, self.name)}:{content_version(local.path)}"

    def _version_here(self) -> str | None:
        """Return the version of what is loaded, if that has the chosen name already."""
        name, _, version = self._local.tag.partition(":") if self._local else ("", "", "")
        return version if name == self._name else None

    def _in_store(self, model: LocalModel) -> StoredModel | None:
        return find_tag(model.tag) if model.tag else None


def _is_commit(revision: str) -> bool:
    return len(revision) == 40 and not set(revision) - set("0123456789abcdef")
