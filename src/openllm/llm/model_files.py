"""All files that a model is loaded from, as its settings want them: its own, a tokenizer's, and
those of adapters.

What else than a model's whole folder may be wanted is decided here: no weights where they are made
up, and a tokenizer that is another model's or of another revision.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from typing import TYPE_CHECKING

from msgspec.structs import replace

from openllm.config.download import DownloadOptions
from openllm.config.model import LoadOptions
from openllm.errors import ConfigurationError
from openllm.llm.fetching import local_model
from openllm.llm.parts import fetch_adapter, fetch_part
from openllm.models.adapters import adapter_refs, find_adapter
from openllm.models.locate import expand, find_local, from_store
from openllm.models.ref import NO_WEIGHTS, ModelRef, parse_ref, shown_source
from openllm.models.store import find_tag, hold
from openllm.types import Adapter, LocalModel

if TYPE_CHECKING:
    from openllm.llm.fetching import OnProgress

_Part = LocalModel | Adapter


def find_files(
    ref: ModelRef, load: LoadOptions, model: LocalModel | None = None
) -> LocalModel | None:
    """Return the model with what goes with it if all files are on this machine; asks no network.

    Args:
        ref: As the user typed it.
        load: Of these, the options of the tokenizer, `lora` and `load_format` count.
        model: The model itself, if it was found already.

    Raises:
        ConfigurationError: A name is unknown, or a tokenizer or an adapter can not be what the
            options say.
        ModelFileError: There is no such file, or the folder holds no model.
    """
    adapters = _adapters_here(load)
    model, *tokenizers = _parts_here(ref, load, model)
    if model is None or None in tokenizers or None in adapters:
        return None
    model = replace(model, adapters=tuple(filter(None, adapters)))
    return replace(model, tokenizer=tokenizers[0]) if tokenizers else model


def fetch_files(
    ref: ModelRef,
    load: LoadOptions,
    download: DownloadOptions | None = None,
    *,
    model: LocalModel | None = None,
    installed: bool = True,
    on_progress: OnProgress | None = None,
    cancelled: threading.Event | None = None,
) -> LocalModel:
    """Return the model with what goes with it, downloaded where it is not on this machine.

    Adapters, which are small, come first: what is wrong with them costs no weights. Blocks; `model`
    is the model itself, if it was found already, and other arguments and errors are those of
    `openllm.llm.fetching.local_model`. None of the parts makes room for another.
    """
    meant, here = expand(ref), model or find_local(ref)
    tokenizer_ref = None if _has_its_own(here) else _tokenizer_ref(ref, load)
    dummy = load.load_format == "dummy" and _may_lack_weights(meant)
    options = download or DownloadOptions()
    adapters: list[Adapter] = []
    with ExitStack() as kept:
        kept.enter_context(keep_here(ref, load, model))
        for each in adapter_refs(load.lora):
            adapters.append(fetch_adapter(each, options, on_progress, cancelled))
            kept.enter_context(keep(adapters[-1]))
        if here is None and dummy:
            model = _settings_here(meant) or _beside(meant, options, on_progress, cancelled)
        elif model is None:
            model = local_model(
                ref,
                options,
                backend=load.backend,
                trust_remote_code=load.trust_remote_code,
                installed=installed,
                on_progress=on_progress,
                cancelled=cancelled,
            )
        model = replace(model, adapters=tuple(adapters))
        if tokenizer_ref is None or _has_its_own(model):
            return model
        kept.enter_context(keep(model))
        tokenizer = _tokenizer_here(tokenizer_ref)
        tokenizer = tokenizer or _beside(tokenizer_ref, options, on_progress, cancelled)
    return replace(model, tokenizer=tokenizer)


@contextmanager
def keep(*parts: _Part) -> Iterator[None]:
    """Keep models, with what goes with them, and adapters from being removed from the store.

    Raises:
        ModelFileError: One was removed meanwhile.
    """
    with ExitStack() as holds:
        for tag in (tag for part in parts for tag in _tags(part)):
            if known := find_tag(tag):
                holds.enter_context(closing(hold(known)))
        yield


def keep_here(
    ref: ModelRef, load: LoadOptions, model: LocalModel | None = None
) -> AbstractContextManager[None]:
    """Keep what is on this machine of a model and what goes with it; see `find_files`, `keep`."""
    found: tuple[_Part | None, ...] = (*_parts_here(ref, load, model), *_adapters_here(load))
    return keep(*(part for part in found if part is not None))


def model_here(ref: ModelRef, load: LoadOptions) -> LocalModel | None:
    """Return what is on this machine of a model as it will be loaded, None if it is not here."""
    model = find_local(ref)
    if model is None and load.load_format == "dummy":
        return _settings_here(expand(ref))
    return model


def _parts_here(
    ref: ModelRef, load: LoadOptions, model: LocalModel | None
) -> tuple[LocalModel | None, ...]:
    """Return the model, and the tokenizer if it is another's; None for what is not here."""
    model = model or model_here(ref, load)
    tokenizer_ref = None if _has_its_own(model) else _tokenizer_ref(ref, load)
    return (model,) if tokenizer_ref is None else (model, _tokenizer_here(tokenizer_ref))


def _adapters_here(load: LoadOptions) -> tuple[Adapter | None, ...]:
    return tuple(map(find_adapter, adapter_refs(load.lora)))


def _tags(part: _Part) -> Iterator[str]:
    """Yield the tags of what is in the store of it."""
    if part.tag:
        yield part.tag
    if isinstance(part, LocalModel):
        for each in part.adapters:
            yield from _tags(each)
        if part.tokenizer is not None:
            yield from _tags(part.tokenizer)


def _has_its_own(model: LocalModel | None) -> bool:
    """Whether the model's one file holds the tokenizer; options for all models pass over it."""
    return model is not None and model.format in ("gguf", "script")


def _tokenizer_ref(ref: ModelRef, load: LoadOptions) -> ModelRef | None:
    """Return what the tokenizer is to be taken from; None if it is the model's own."""
    if not load.other_tokenizer:
        return None
    meant = expand(ref) if load.tokenizer is None else _tokenizer_named(load.tokenizer)
    if meant.kind == "url" or meant.file or meant.source.endswith(".gguf"):
        raise ConfigurationError(
            f"{shown_source(meant.source)} is a GGUF file, whose tokenizer cannot be taken out of"
            " it; give a hub id without a file, or a folder",
            param="tokenizer",
        )
    return _of_revision(meant, load) if load.tokenizer_revision is not None else meant


def _tokenizer_named(text: str) -> ModelRef:
    try:
        ref = parse_ref(text)
    except ConfigurationError as error:
        raise ConfigurationError(error.message, param="tokenizer") from None
    try:
        return expand(ref)
    except ConfigurationError:
        raise ConfigurationError(
            f"{text[:80]!r} is no tokenizer; give a hub id such as org/name, or a folder",
            param="tokenizer",
        ) from None


def _of_revision(meant: ModelRef, load: LoadOptions) -> ModelRef:
    if meant.kind != "hub":
        raise ConfigurationError(
            f"tokenizer_revision {load.tokenizer_revision!r} is of a repository on the hub, and"
            f" {meant.source} is a folder; leave it out, or give a hub id as tokenizer",
            param="tokenizer_revision",
        )
    if load.tokenizer is not None and meant.revision:
        raise ConfigurationError(
            f"tokenizer {load.tokenizer} and tokenizer_revision {load.tokenizer_revision} both give"
            " a revision; leave one out",
            param="tokenizer_revision",
        )
    return parse_ref(f"{meant.repo}@{load.tokenizer_revision}")


def _tokenizer_here(meant: ModelRef) -> LocalModel | None:
    """Return the tokenizer if it is on this machine, alone or in a whole model."""
    if meant.kind == "path":
        path = os.path.abspath(os.path.expanduser(meant.source))
        return LocalModel(name=meant.served_name, path=path, format="safetensors")
    whole = find_local(meant)
    if whole is not None and whole.format == "safetensors":
        return whole
    return _settings_here(meant)


def _may_lack_weights(meant: ModelRef) -> bool:
    """Whether the model is one of many files, so that others are of use without the weights."""
    return meant.kind == "hub" and not meant.file


def _settings_here(meant: ModelRef) -> LocalModel | None:
    return find_local(replace(meant, file=NO_WEIGHTS)) if _may_lack_weights(meant) else None


def _beside(
    meant: ModelRef,
    download: DownloadOptions,
    on_progress: OnProgress | None,
    cancelled: threading.Event | None,
) -> LocalModel:
    """Download what lies beside the weights of a repository."""
    beside = replace(meant, file=NO_WEIGHTS)
    return from_store(beside, fetch_part(beside, "tokenizer", download, on_progress, cancelled))
