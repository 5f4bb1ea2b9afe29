"""What a model needs memory for, read from headers alone: of files here, or on a hub.

    facts_config  layers and heads as `config.json` has them
    facts_gguf    the same as a GGUF header has them

It knows sizes, and nothing of engines: `openllm.models.fit` says what each makes of them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from openllm.errors import ModelFetchError
from openllm.models.facts_config import Shape, shape_of_config
from openllm.models.facts_gguf import GgufShape, gguf_shape
from openllm.models.folder import CONFIG, model_facts
from openllm.models.folder_files import FolderFiles
from openllm.models.folder_layers import check_layers
from openllm.models.folder_weights import read_weights
from openllm.models.gguf_parts import part_paths
from openllm.models.gguf_window import Window, open_window
from openllm.models.ranges import RangeFile, ReadRange, RemoteFiles, weight_names
from openllm.models.store import blamed
from openllm.types import LocalModel, ModelFormat

if TYPE_CHECKING:
    from openllm.config.download import DownloadOptions
    from openllm.models.hub import RemoteFile, RemoteModel

# Bytes of a number of the types that a load can turn into another; others stay as they are.
_WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}


class ModelFacts(Struct, frozen=True, kw_only=True):
    """What decides how much memory a model takes.

    Attributes:
        format: What its files are.
        architecture: As the files name it, e.g. "LlamaForCausalLM", or "llama" of a GGUF file.
        weights: Bytes of weights by the type they are stored in; "" where it cannot be changed.
        dtype: Type of most weights as PyTorch names it; "" where it has no name for it.
        context_length: Tokens the model was made for; None where it names no limit.
        encoder_decoder: Keys and values are kept of the prompt and of the reply.
        shape: Its layers, and what they keep of each token.
        adapters: Bytes of the LoRA adapters that it is to be loaded with, as they are stored.
    """

    format: ModelFormat
    architecture: str
    weights: dict[str, int]
    shape: Shape
    dtype: str = ""
    context_length: int | None = None
    encoder_decoder: bool = False
    adapters: int = 0

    @property
    def weight_bytes(self) -> int:
        """Bytes of the model's own weights as they are stored."""
        return sum(self.weights.values())

    def loaded_bytes(self, width: int) -> int:
        """Return the bytes of the weights when a number takes `width`; quantized ones stay.

        Adapters count as they are stored.
        """
        return self.adapters + sum(
            size * width // _WIDTHS[name] if name in _WIDTHS else size
            for name, size in self.weights.items()
        )


def facts_of(model: LocalModel) -> ModelFacts | None:
    """Return the facts of a model on this machine; None of a format that has none.

    Raises:
        ModelFileError: The files are damaged, or are not what they say.
    """
    with blamed(model.tag):
        if model.format == "gguf":
            with open_window(model.path) as window:
                found = gguf_shape(window)
            return _of_gguf(found, sum(map(_size, part_paths(model.path, found.parts))))
        return _of_files(FolderFiles(model.path)) if model.format == "safetensors" else None


def facts_of_remote(
    remote: RemoteModel,
    files: Sequence[RemoteFile],
    options: DownloadOptions,
    *,
    folder: Path | None = None,
) -> ModelFacts:
    """Return the facts of `files`, the wanted ones of a model on a hub; fetches headers only.

    Args:
        remote: The model.
        files: Those of its files that a download would bring.
        options: Where from and how.
        folder: Of their download, whose lock the caller holds: what is there is not fetched, and
            what is fetched stays there. Without it nothing is written.

    Raises:
        ModelFileError: A file is damaged, or is not what it says.
        OpenLLMError: The hub cannot be reached, or refuses.
        OSError: `folder` cannot be written.
    """
    from openllm.models.transfer_ahead import read_ahead
    from openllm.models.transfer_http import Session
    from openllm.models.transfer_stop import stoppable

    named = {file.name: file for file in files}
    unknown = next((file.name for file in files if file.size < 0), None)
    if unknown is not None:
        raise ModelFetchError(
            f"the server does not say how long {unknown} is; download it and give its path"
        )
    with Session(options, remote.home(options)) as session:

        def read(name: str, start: int, length: int) -> bytes:
            if folder is not None:
                return read_ahead(session, named[name], folder, start, length)
            return session.read_range(named[name].url, start, length)

        sizes = {file.name: file.size for file in files}
        work = partial(facts_by_ranges, remote.source, sizes, read)
        return stoppable(work, session.halt)  # For Ctrl-C.


def facts_by_ranges(label: str, sizes: Mapping[str, int], read_range: ReadRange) -> ModelFacts:
    """Return the facts of remote files, given their sizes by name; errors as `facts_of_remote`."""
    parts = weight_names(tuple(sizes))
    if parts:
        first = parts[0]
        source = RangeFile(first, sizes[first], read_range)
        window = Window(source, os.path.basename(first), sizes[first])
        return _of_gguf(gguf_shape(window), sum(sizes[name] for name in parts))
    files = RemoteFiles(label, sizes, read_range)
    return _of_files(files)


def _of_files(files: FolderFiles) -> ModelFacts:
    config = files.object(CONFIG)
    if config is None:
        files.fail(CONFIG, "does not exist, so this is no model; choose another repository")
    said: dict[str, Any] = model_facts(files, config)
    weights = read_weights(files)
    check_layers(files, config, weights)
    return ModelFacts(
        format="safetensors",
        architecture=said["architecture"],
        weights=weights.types,
        dtype=said["dtype"] or weights.dtype,
        context_length=said["context_length"],
        encoder_decoder=said["encoder_decoder"],
        shape=shape_of_config(config),
    )


def _size(path: str) -> int:
    with open_window(path) as window:
        return window.size


def _of_gguf(found: GgufShape, size: int) -> ModelFacts:
    return ModelFacts(
        format="gguf",
        architecture=found.architecture,
        weights={"": size},
        context_length=found.context_length,
        shape=found.shape,
    )
