"""GGUF header reader: checks every field of a model file before native code sees it.

It reads versions 2 and 3, little endian. Tensor data is measured, never read; hashes and the
meaning of an architecture's own keys are not its business.
"""

from __future__ import annotations

import os
import sys
from array import array
from collections.abc import Sequence

from msgspec import Struct

from openllm.models.gguf_layout import (
    FLOAT32,
    INT8,
    INT32,
    MAX_LAYERS,
    STRING,
    UINT8,
    Array,
    read_metadata,
    read_tensors,
)
from openllm.models.gguf_metadata import Metadata
from openllm.models.gguf_parts import part_paths
from openllm.models.gguf_window import Window, open_window, shown

MAX_TOKENS = 1 << 20
MAX_CONTROL_TOKENS = 131_072
MAX_TOKEN_BYTES = 1024
LEAST_CONTEXT = 8
"""Tokens: with a context that is near its number of slots llama.cpp aborts the process."""
_TOKENIZER = "tokenizer.ggml."

# Element types llama.cpp takes for granted in the arrays of a vocabulary.
_ARRAY_KINDS = {
    "tokens": (STRING,),
    "token_type": (INT32,),
    "scores": (FLOAT32,),
    "merges": (STRING,),
    "precompiled_charsmap": (UINT8, INT8),
}

# llama.cpp lets these pre-tokenizers begin a prompt with BOS where the file does not say.
_PRE_WITH_BOS = frozenset(
    ("llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "lfm2", "tekken")
)

# Token types whose text stands for one token wherever it appears: control and user-defined.
_CONTROL_TYPES = frozenset((3, 4))


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
        control_tokens: Texts of the control and user-defined tokens that are not blank.
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
        vocabulary = _vocabulary(window, metadata)
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
            chat_template=metadata.text("tokenizer.chat_template") or None,
            bos_token_id=vocabulary.bos_id,
            eos_token_id=vocabulary.eos_id,
            bos_token=vocabulary.bos,
            eos_token=vocabulary.eos,
            add_bos=_adds_bos(metadata),
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
        window.fail(f"is no model: it says it is of the type {shown(kind)}")
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


class _Vocabulary(Struct, frozen=True, kw_only=True):
    size: int = 0
    bos_id: int | None = None
    eos_id: int | None = None
    bos: str = ""
    eos: str = ""
    control_tokens: tuple[str, ...] = ()


def _vocabulary(window: Window, metadata: Metadata) -> _Vocabulary:
    arrays = {name: metadata.array(_TOKENIZER + name, _ARRAY_KINDS[name]) for name in _ARRAY_KINDS}
    tokens, types, scores = arrays["tokens"], arrays["token_type"], arrays["scores"]
    if tokens is None:
        return _Vocabulary()
    # llama.cpp reads as many types and scores as there are tokens, whatever the arrays hold.
    for name, other in (("types", types), ("scores", scores)):
        if other is not None and other.count != tokens.count:
            window.fail(f"is damaged: {tokens.count} tokens have {other.count} {name}")
    control = _control_ids(window, types) if types else []
    bos, eos = (_token_id(metadata, name, tokens.count) for name in ("bos", "eos"))
    texts = _tokens(window, tokens)
    controls = (_text(window, texts, index) for index in control)
    return _Vocabulary(
        size=tokens.count,
        bos_id=bos,
        eos_id=eos,
        bos="" if bos is None else _text(window, texts, bos),
        eos="" if eos is None else _text(window, texts, eos),
        control_tokens=tuple(text for text in controls if text.strip(" \t\r\n\u2581")),
    )


def _control_ids(window: Window, types: Array) -> list[int]:
    window.seek(types.position)
    values = array("i", window.take(4 * types.count))
    if sys.byteorder == "big":
        values.byteswap()
    ids = [index for index, value in enumerate(values) if value in _CONTROL_TYPES]
    if len(ids) > MAX_CONTROL_TOKENS:
        window.fail(f"has {len(ids)} control tokens; at most {MAX_CONTROL_TOKENS} are supported")
    return ids


def _tokens(window: Window, tokens: Array) -> list[bytes]:
    """Return all tokens; fail for two that are the same, with which llama.cpp aborts the process.

    Empty ones it tells apart.
    """
    if tokens.count > MAX_TOKENS:
        window.fail(f"has {tokens.count} tokens; at most {MAX_TOKENS} are supported")
    window.seek(tokens.position)
    texts = window.strings(tokens.count, MAX_TOKEN_BYTES, "the token")
    if len(set(texts)) + texts.count(b"") - (b"" in texts) < len(texts):
        first: dict[bytes, int] = {}
        for index, text in enumerate(texts):
            if text and first.setdefault(text, index) != index:
                same = shown(text.decode("utf-8", "replace"))
                window.fail(f"is damaged: its tokens {first[text]} and {index} are both {same}")
    return texts


def _text(window: Window, tokens: Sequence[bytes], index: int) -> str:
    try:
        return tokens[index].decode()
    except UnicodeDecodeError:
        window.fail(f"is damaged: the token {index} is not UTF-8")


def _token_id(metadata: Metadata, name: str, size: int) -> int | None:
    """Return an id; None for one outside of the vocabulary, which llama.cpp ignores as well."""
    value = metadata.integer(f"{_TOKENIZER}{name}_token_id", most=2**32 - 1)
    return value if value is not None and value < size else None


def _adds_bos(metadata: Metadata) -> bool:
    said = metadata.flag(_TOKENIZER + "add_bos_token")
    if said is not None:
        return said
    if metadata.text(_TOKENIZER + "model") == "gpt2":
        return metadata.text(_TOKENIZER + "pre") in _PRE_WITH_BOS
    return metadata.text(_TOKENIZER + "model") in ("llama", "bert")
