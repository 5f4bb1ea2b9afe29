"""What a model that is not on this machine is, told by its listing and `config.json` alone.

That is enough to choose its engine, so what cannot run is refused before a byte of its weights, in
the words of after a download.
"""

from __future__ import annotations

import re
import threading
from functools import cache
from typing import TYPE_CHECKING

from msgspec.structs import replace

from openllm.config.model import LoadOptions
from openllm.engines import engine_kind
from openllm.errors import EngineNotInstalledError, ModelNotFoundError
from openllm.llm.choice import check_adapter, choose_by_facts, choose_engine
from openllm.llm.model_files import model_here
from openllm.llm.parts import adapters_ahead
from openllm.models.folder import architecture_of, check_tokenizer
from openllm.models.folder_files import MAX_CONFIG_BYTES, FolderFiles
from openllm.models.hub import RemoteModel
from openllm.models.hub_files import wanted
from openllm.models.locate import expand
from openllm.models.offers import offered
from openllm.models.ranges import RemoteFiles
from openllm.models.ref import NO_WEIGHTS, ModelRef
from openllm.models.transfer_http import Session
from openllm.models.transfer_stop import stoppable

if TYPE_CHECKING:
    from openllm.config.download import DownloadOptions

_QUANTISATION = re.compile(r"(?<![A-Za-z0-9])(I?Q\d\w*|B?F16|F32)(?![A-Za-z0-9_])", re.IGNORECASE)


def engine_ahead(
    ref: ModelRef,
    load: LoadOptions,
    download: DownloadOptions,
    cancelled: threading.Event | None = None,
) -> str:
    """Return the engine of a model that may have to be downloaded; asks the network if so.

    Its adapters are looked at as well.

    Args:
        ref: As the user typed it.
        load: Of these, the engine asked for, where its tokenizer is from, `load_format`, `lora` and
            `trust_remote_code` count.
        download: How to ask.
        cancelled: When set, this raises within a second.

    Raises:
        ConfigurationError: No engine runs the model, it is none for an adapter, or the network must
            not be used.
        ModelFileError: It has no tokenizer and none is given, needs code that is not trusted, or
            its `config.json` is not what it should be.
        EngineNotInstalledError: The engine's package is missing; says what to install, and what of
            the same repository needs no other package.
        OpenLLMError: There is no such repository, or its server fails.
    """
    adapters = adapters_ahead(load.lora, download, cancelled)
    engine = _engine_ahead(ref, load, download, cancelled)
    for adapter in adapters:
        check_adapter(adapter.label, adapter.format, engine)
    return engine


def _engine_ahead(
    ref: ModelRef, load: LoadOptions, download: DownloadOptions, cancelled: threading.Event | None
) -> str:
    model = model_here(ref, load)
    if model is not None:
        return choose_engine(model, load).name
    meant = expand(ref)
    if meant.kind == "url" or meant.file:  # What is asked for is a GGUF file.
        return choose_by_facts(meant.served_name, "gguf", "", load).name
    if load.load_format == "dummy":
        meant = replace(meant, file=NO_WEIGHTS)
    remote, files = offered(meant, download, cancelled)
    if any(file.is_gguf for file in files):
        return choose_by_facts(meant.served_name, "gguf", "", load).name
    urls = {file.name: file.url for file in files}
    with Session(download, remote.home(download)) as session:

        @cache
        def read(name: str, _start: int, _length: int) -> bytes:
            return session.read(urls[name], MAX_CONFIG_BYTES)  # Not every server gives parts.

        there = RemoteFiles(remote.shown, {file.name: file.size for file in files}, read)
        architecture = stoppable(
            lambda: _architecture(meant.served_name, there, load), session.halt, cancelled
        )
    try:
        return choose_by_facts(meant.served_name, "safetensors", architecture, load).name
    except EngineNotInstalledError as error:
        error.message += "" if load.backend else _instead(meant, remote)
        raise


def _architecture(name: str, files: FolderFiles, load: LoadOptions) -> str:
    """Return the architecture of a model of many files, and check its settings and tokenizer."""
    trust = load.trust_remote_code
    architecture = architecture_of(files, trust_remote_code=trust)
    engine = choose_by_facts(name, "safetensors", architecture, load, installed=False).name
    if not load.other_tokenizer and "tokenizer" in engine_kind(engine).options:
        check_tokenizer(files, trust_remote_code=trust)
    return architecture


def _instead(meant: ModelRef, remote: RemoteModel) -> str:
    """Return the rest of a message that says which GGUF file of the repository runs at once."""
    ggufs = [file for file in remote.files if file.is_gguf and "mmproj" not in file.name.lower()]
    if meant.file == NO_WEIGHTS or not ggufs:
        return ""
    chosen = min(ggufs, key=lambda file: ("q4_k_m" not in file.name.lower(), file.size)).name
    found = _QUANTISATION.search(chosen)
    short = found[0] if found and _is_one(remote, found[0]) else chosen
    at = f"@{meant.revision}" if meant.revision else ""
    return f"; or take a GGUF file, which needs nothing more: {meant.repo}{at}:{short}"


def _is_one(remote: RemoteModel, quantisation: str) -> bool:
    try:
        return bool(wanted(remote, quantisation))
    except ModelNotFoundError:
        return False
