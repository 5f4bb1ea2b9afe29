"""Models as BentoML's store holds them: imported by name, and turned into runners."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bentoml
from bentoml._internal.models.model import ModelStore
from bentoml.exceptions import NotFound

from openllm.errors import ModelNotFoundError
from openllm.llm.llm import LLM
from openllm.models.locate import find_local
from openllm.models.ref import parse_ref
from openllm.models.store import ModelRecord, StoredFile, StoredModel, add, find_tag
from openllm.models.store_record import models_folder
from openllm.models.tags import content_files
from openllm.types import LocalModel

if TYPE_CHECKING:
    from openllm.config.download import DownloadOptions


class LLMModel(bentoml.Model):
    """A model in BentoML's store: a `bentoml.Model` that knows what an engine needs of it."""

    @property
    def record(self) -> StoredModel:
        """What the store knows of it: its format, its source and its files.

        Raises:
            ModelNotFoundError: It was removed, or its files are no model's.
        """
        found = find_tag(str(self.tag))
        if found is None:
            raise ModelNotFoundError(
                f"The store has no model {self.tag} any more; import it again."
            )
        return found

    def to_runner(  # type: ignore[override]  # Batches are the engine's affair.
        self, name: str = "", embedded: bool = False, **options: Any
    ) -> Any:
        """Return a runner of this very version; see `openllm.bento.runners.get_runner`.

        Args:
            name: Of the runner and the model; that in the store if left out.
            embedded: As in `get_runner`.
            options: As in `get_runner`.
        """
        from openllm.bento.runners import get_runner

        text = f"{name or self.tag.name}={self.record.path}"
        runner = get_runner(text, embedded=embedded, **options)
        runner.models.append(self)  # So that `bentoml build` packs it.
        return runner


def import_model(
    model_name: str, *, backend: str | None = None, download: DownloadOptions | None = None
) -> LLMModel:
    """Return the model in BentoML's store, put there if it is not: downloaded, or linked.

    The files of a model on this machine are linked into the store, or copied if that is on
    another disk.

    Args:
        model_name: Any spelling that `openllm.LLM` takes.
        backend: The engine it is for, which its tag begins with; the one that fits if left out.
        download: How to download; read from the environment if left out.

    Raises:
        ConfigurationError: The name is wrong or unknown, or no engine runs the model.
        OpenLLMError: The download failed; the message says what to do.
    """
    llm = LLM(model_name, backend, download=download)
    local = find_local(parse_ref(model_name))
    if local is not None and not local.tag and find_tag(llm.tag) is None:
        _link(local, llm.tag)
    model: LLMModel = llm.bentomodel
    return model


def stored_model(tag: str) -> Any:
    """Return the model that BentoML's store holds under `tag`.

    Raises:
        NotFound: There is none; the message says what to do.
    """
    try:
        # Not `bentoml.models`, which finds out once where the store is.
        return _Store(models_folder()).get(tag)
    except NotFound:
        raise NotFound(
            f"BentoML's model store has no model {tag}; store the files with"
            f" open_llm_server.import_model(...) or bentoml.models.create({tag!r}), or name a"
            " stored model (`bentoml models list`) by LLM(..., model_tag=...)"
        ) from None


class _Store(ModelStore):
    _item_type = LLMModel


def _link(model: LocalModel, tag: str) -> None:
    """Store the files of a model on this machine, all shards of one that is in several."""
    path = Path(model.path)
    folder = path if path.is_dir() else path.parent
    name, version = tag.split(":")
    files = (
        StoredFile(file.relative_to(folder).as_posix(), os.path.getsize(file))
        for file in content_files(path)
    )
    record = ModelRecord(
        format=model.format,
        source=model.path,
        file="" if path.is_dir() else path.name,
        files=tuple(files),
    )
    add(folder, record, name=name, version=version)
