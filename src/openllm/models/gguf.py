"""GGUF header reader: checks every field of a model file before native code sees it.

It reads versions 2 and 3, little endian. Tensor data is measured, never read; hashes and the
meaning of an architecture's own keys are not its business.
"""

from __future__ import annotations

import os

from msgspec import Struct

from openllm.models.gguf_layout import MAX_LAYERS, read_metadata, read_tensors
from openllm.models.gguf_metadata import Metadata
from openllm.models.gguf_parts import part_paths
from openllm.models.gguf_vocabulary import read_vocabulary
from openllm.models.gguf_window import Window, open_window, shown

LEAST_CONTEXT = 8
"""Tokens: with a context that is near its number of slots llama.cpp aborts the process."""


class GgufHeader(Struct, frozen=True, kw_only=True):
    """What a GGUF file says of its model; numbers it does not state are None, texts empty.

    Attributes:
        version: Version of the format, 2 or 3.
        architecture: Name of the architecture, e.g. "llama".
        name: Name the author gave the model.
        file_type: llama.cpp's number of the overall quantization.
        context_length: Tokens the model was trained for.
        embedding_length: Width of the hidden state.
        block_count: Number of layers.
        head_count: Attention heads; None too where it differs by layer.
        head_count_kv: Key-value heads; None too where it differs by layer.
        vocab_size: Number of tokens, 0 for a file without vocabulary.
        chat_template: Jinja source, or None.
        bos_token_id: Id of the begin-of-text token, within the vocabulary.
        eos_token_id: Id of the end-of-text token, within the vocabulary.
        bos_token: Text of the begin-of-text token.
        eos_token: Text of the end-of-text token.
        add_bos: The tokenizer puts BOS before a prompt by itself.
        control_tokens: Texts of the control tokens that are not blank, and of the user-defined
            ones that the chat template writes: others, such as "<b>", are text like any other.
        tensor_count: Number of tensors.
        parameter_count: Elements of all tensors.
        data_size: Bytes of tensor data, padding between tensors included.
    """

    version: int
    architecture: str
    name: str = ""
    file_type: int | None = None
    context_length: int | None = None
    embedding_length: int | None = None
    block_count: int | None = None
    head_count: int | None = None
    head_count_kv: int | None = None
    vocab_size: int = 0
    chat_template: str | None = None
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    bos_token: str = ""
    eos_token: str = ""
    add_bos: bool = False
    control_tokens: tuple[str, ...] = ()
    tensor_count: int
    parameter_count: int
    data_size: int


def read_header(path: str | os.PathLike[str]) -> GgufHeader:
    """Read and check the header of the GGUF file at `path`, and of its further parts if it has any.

    Raises:
        ModelFileError: The file cannot be read, is no GGUF file, is damaged or truncated, or
            holds no complete model; the message names the file and the field.
    """
    with open_window(path) as window:
        contents = read_contents(window)
        metadata = contents.metadata
        paths = part_paths(path, contents.parts)
        further = (_read_part(each, i, contents.parts) for i, each in enumerate(paths[1:], 1))
        files = (contents, *further)
        vocabulary = read_vocabulary(window, metadata)
        architecture = metadata.text("general.architecture")
        return GgufHeader(
            version=contents.version,
            architecture=architecture,
            name=metadata.text("general.name"),
            file_type=metadata.integer("general.file_type"),
            context_length=metadata.integer(f"{architecture}.context_length", least=LEAST_CONTEXT),
            embedding_length=metadata.integer(f"{architecture}.embedding_length", least=1),
            block_count=metadata.integer(f"{architecture}.block_count", least=1, most=MAX_LAYERS),
            head_count=metadata.integer(f"{architecture}.attention.head_count"),
            head_count_kv=metadata.integer(f"{architecture}.attention.head_count_kv"),
            vocab_size=vocabulary.size,
            chat_template=vocabulary.chat_template or None,
            bos_token_id=vocabulary.bos_id,
            eos_token_id=vocabulary.eos_id,
            bos_token=vocabulary.bos,
            eos_token=vocabulary.eos,
            add_bos=vocabulary.add_bos,
            control_tokens=vocabulary.control_tokens,
            tensor_count=sum(each.tensor_count for each in files),
            parameter_count=sum(each.parameter_count for each in files),
            data_size=sum(each.data_size for each in files),
        )


class Contents(Struct, frozen=True):
    """All of a header that was read in one pass; tensors are checked and counted."""

    version: int
    metadata: Metadata
    parts: int
    tensor_count: int
    parameter_count: int
    data_size: int


def read_contents(window: Window, part: int = 0) -> Contents:
    """Read and check a whole header from its first byte; errors as in `read_header`.

    `part` counts from 0 the files of a model that has several.
    """
    version = _version(window)
    tensor_count = window.uint64()
    metadata = Metadata(window, read_metadata(window, window.uint64()))
    parts = _check_kind(window, metadata, tensor_count, part)
    sizes = read_tensors(window, tensor_count, metadata.alignment())
    return Contents(version, metadata, parts, tensor_count, *sizes)


def file_kind(path: str | os.PathLike[str]) -> str:
    """Return what the GGUF file at `path` says it is: "model", "adapter" ...; errors as above."""
    with open_window(path) as window:
        _version(window)
        window.uint64()
        metadata = Metadata(window, read_metadata(window, window.uint64()))
        return metadata.text("general.type") or "model"


def _version(window: Window) -> int:
    if window.size < 4:
        window.fail(f"is not a GGUF file: it has {window.size} bytes")
    magic = window.take(4)
    if magic != b"GGUF":
        window.fail(f"is not a GGUF file: it begins with {magic!r}")
    version = window.uint32()
    if version and version & 0xFFFF == 0:
        window.fail("is a big-endian GGUF file, which is not supported: convert it again")
    if version not in (2, 3):
        window.fail(f"has GGUF version {version}, supported are 2 and 3: convert it again")
    return version


def _check_kind(window: Window, metadata: Metadata, tensor_count: int, part: int) -> int:
    """Fail for files of the format that are no model, or not its `part`; return how many it has."""
    parts, number = metadata.integer("split.count") or 1, metadata.integer("split.no") or 0
    if number != part:
        fix = "give the first" if not part else "download it again"
        window.fail(f"says it is part {number + 1} of {parts}, not {part + 1}: {fix}")
    if not part and not metadata.text("general.architecture"):
        window.fail("does not name its architecture (general.architecture)")
    kind = metadata.text("general.type") or "model"
    if kind != "model":
        fix = ": give it to its model by --lora" if kind == "adapter" else ""
        window.fail(f"is no model: it says it is of the type {shown(kind)}{fix}")
    if not tensor_count and parts == 1:
        window.fail("holds no tensors")
    return parts


def _read_part(path: str, part: int, parts: int) -> Contents:
    with open_window(path) as window:
        contents = read_contents(window, part)
        if contents.parts != parts:
            window.fail(
                f"says that there are {contents.parts} parts, not {parts}: download it again"
            )
        return contents
