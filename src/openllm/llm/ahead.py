"""What a model that is not on this machine is, told by its listing and `config.json` alone.

That is enough to choose its engine, so what cannot run is refused before a byte of its weights.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from openllm.config.model import LoadOptions
from openllm.errors import EngineNotInstalledError, ModelNotFoundError
from openllm.llm.choice import choose_by_facts, choose_engine
from openllm.llm.model_files import model_here
from openllm.models.hub import NO_WEIGHTS, RemoteFile, RemoteModel, wanted
from openllm.models.locate import expand
from openllm.models.offers import offered
from openllm.models.ref import ModelRef
from openllm.models.transfer_http import Session
from openllm.models.transfer_stop import stoppable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from openllm.config.download import DownloadOptions

_CONFIG = "config.json"
_MAX_CONFIG = 8 << 20
_QUANTISATION = re.compile(r"(?<![A-Za-z0-9])(I?Q\d\w*|B?F16|F32)(?![A-Za-z0-9_])", re.IGNORECASE)


class _Config(msgspec.Struct):
    architectures: list[str] | None = None


def engine_ahead(ref: ModelRef, load: LoadOptions, download: DownloadOptions) -> str:
    """Return the engine of a model that may have to be downloaded; asks the network if so.

    Args:
        ref: As the user typed it.
        load: Of these, the engine asked for, `load_format` and `trust_remote_code` count.
        download: How to ask.

    Raises:
        ConfigurationError: No engine runs the model, or the network must not be used.
        EngineNotInstalledError: The engine's package is missing; says what to install, and what of
            the same repository needs no other package.
        OpenLLMError: There is no such repository, or its server fails.
    """
    model = model_here(ref, load)
    if model is not None:
        return choose_engine(model, load).name
    meant = expand(ref)
    if meant.kind == "url" or meant.file:  # What is asked for is a GGUF file.
        return choose_by_facts(meant.served_name, "gguf", "", load).name
    if load.load_format == "dummy":
        meant = replace(meant, file=NO_WEIGHTS)
    remote, files = offered(meant, download)
    if any(file.is_gguf for file in files):
        return choose_by_facts(meant.served_name, "gguf", "", load).name
    architecture = _architecture(remote, files, download)
    try:
        return choose_by_facts(meant.served_name, "safetensors", architecture, load).name
    except EngineNotInstalledError as error:
        error.message += "" if load.backend else _instead(meant, remote)
        raise


def _architecture(
    remote: RemoteModel, files: Sequence[RemoteFile], download: DownloadOptions
) -> str:
    """Return what `config.json` names, "" if there is none or it does not."""
    url = next((file.url for file in files if file.name == _CONFIG), None)
    if url is None:
        return ""
    with Session(download, remote.home(download)) as session:
        content = stoppable(lambda: session.read(url, _MAX_CONFIG), session.halt)
    try:
        names = msgspec.json.decode(content, type=_Config).architectures
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""  # The download names what is wrong.
    return names[0] if names else ""


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
