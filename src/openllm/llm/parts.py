"""What goes with a model and comes from a repository of its own: a tokenizer, and LoRA adapters."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from openllm.config.download import DownloadOptions
from openllm.errors import ConfigurationError
from openllm.models.adapters import adapter_refs, blaming, find_adapter, stored_adapter
from openllm.models.offers import offered
from openllm.models.ref import ModelRef, shown_source
from openllm.models.store import FOR_ADAPTERS, StoredModel, find_tag, touch
from openllm.types import Adapter, ModelFormat

if TYPE_CHECKING:
    from openllm.llm.fetching import OnProgress


class AdapterAhead(NamedTuple):
    """What is known of an adapter that need not be here: its name, format and bytes."""

    label: str
    format: ModelFormat
    size: int


def fetch_part(
    ref: ModelRef,
    framework: str,
    download: DownloadOptions,
    on_progress: OnProgress | None,
    cancelled: threading.Event | None,
) -> StoredModel:
    """Download what `ref` names into the store, unless it is there.

    Blocks; errors are those of `openllm.models.pull.pull`.

    Args:
        ref: A hub id, or a URL.
        framework: What its tag begins with.
        download: How; a hash in it is that of the model's weights, and not looked at.
        on_progress: Called as the download goes on, from its threads.
        cancelled: Set from another thread, it stops the download; what has arrived is kept.
    """
    from openllm.models.pull import pull

    return pull(
        ref,
        _for_parts(download),
        framework=lambda architecture, form: framework,
        on_progress=on_progress,
        cancelled=cancelled,
    )


def fetch_adapter(
    ref: ModelRef,
    download: DownloadOptions,
    on_progress: OnProgress | None = None,
    cancelled: threading.Event | None = None,
) -> Adapter:
    """Return an adapter, one of `adapter_refs`, downloaded unless it is here; see `fetch_part`.

    Raises:
        ConfigurationError: It is no adapter that can be used, or the network must not be.
        OpenLLMError: The download failed; the message names the adapter.
    """
    found = find_adapter(ref)
    if found is not None:
        if known := find_tag(found.tag):
            touch(known)
        return found
    _check_online(ref, download)
    with blaming(ref):
        known = fetch_part(ref, FOR_ADAPTERS, download, on_progress, cancelled)
    return stored_adapter(ref, known)


def adapters_ahead(
    texts: Sequence[str], download: DownloadOptions, cancelled: threading.Event | None = None
) -> tuple[AdapterAhead, ...]:
    """Return what is known of the adapters that the option `lora` names; downloads none.

    Those that are not here are asked for; when `cancelled` is set, that raises within a second.
    Errors are those of `fetch_adapter`.
    """
    return tuple(_ahead(ref, download, cancelled) for ref in adapter_refs(texts))


def _ahead(
    ref: ModelRef, download: DownloadOptions, cancelled: threading.Event | None
) -> AdapterAhead:
    here = find_adapter(ref)
    if here is not None:
        return AdapterAhead(here.label, here.format, here.size)
    _check_online(ref, download)
    with blaming(ref):
        _, files = offered(ref, _for_parts(download), cancelled)
    form: ModelFormat = "gguf" if any(one.is_gguf for one in files) else "safetensors"
    return AdapterAhead(shown_source(str(ref)), form, sum(max(one.size, 0) for one in files))


def _for_parts(download: DownloadOptions) -> DownloadOptions:
    return download.model_copy(update={"sha256": None})


def _check_online(ref: ModelRef, download: DownloadOptions) -> None:
    if download.is_offline:
        shown = shown_source(str(ref))
        raise ConfigurationError(
            f"the adapter {shown} is not in the store, and the network must not be used (--offline"
            f" or HF_HUB_OFFLINE); allow it once with: openllm pull MODEL --lora {shown}",
            param="offline",
        )
