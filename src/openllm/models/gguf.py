"""GGUF header reader: checks every field of a model file before native code sees it.

It reads versions 2 and 3, little endian. Tensor data is measured, never read; hashes and the
meaning of an architecture's own keys are not its business.
"""

from __future__ import annotations

import os
import sys
from array import array
from collections.abc import Iterator, Mapping, Sequence

from msgspec import Struct

from openllm.models.gguf_layout import (
    ARRAY,
    FLOAT32,
    INT8,
    INT32,
    STRING,
    UINT8,
    UINT32,
    Array,
    Entry,
    read_metadata,
    read_tensors,
)
from openllm.models.gguf_window import Window, open_window, shown

MAX_ALIGNMENT = 2**20
MAX_CONTROL_TOKENS = 131_072
MAX_TOKEN_BYTES = 1024
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
    """Read and check the header of the GGUF file at `path`.

    Raises:
        ModelFileError: The file cannot be read, is no GGUF file, is damaged or truncated, or
            holds no complete model; the message names the file and the field.
    """
    with open_window(path) as window:
        version = _version(window)
        tensor_count = window.uint64()
        metadata = _Metadata(window, read_metadata(window, window.uint64()))
        _refuse_other_kinds(window, metadata, tensor_count)
        alignment = metadata.alignment()
        parameter_count, data_size = read_tensors(window, tensor_count, alignment)
        vocabulary = _vocabulary(window, metadata)
        architecture = metadata.text("general.architecture")
        return GgufHeader(
            version=version,
            architecture=architecture,
            name=metadata.text("general.name"),
            file_type=metadata.integer("general.file_type"),
            context_length=metadata.integer(f"{architecture}.context_length", least=1),
            embedding_length=metadata.integer(f"{architecture}.embedding_length", least=1),
            block_count=metadata.integer(f"{architecture}.block_count", least=1),
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
            tensor_count=tensor_count,
            parameter_count=parameter_count,
            data_size=data_size,
        )


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


class _Metadata:
    """The metadata of one file; every access checks type and range."""

    def __init__(self, window: Window, entries: Mapping[str, Entry]) -> None:
        self._window = window
        self._entries = entries

    def text(self, key: str) -> str:
        """Return a text, "" where there is none."""
        entry = self._entries.get(key)
        if entry is None:
            return ""
        if not isinstance(entry.value, str):
            self._window.fail(f"is damaged: {shown(key)} is not a text")
        return entry.value

    def integer(self, key: str, *, least: int = 0, most: int = 2**31 - 1) -> int | None:
        """Return a number from `least` to `most`; None where there is none or one per layer."""
        entry = self._entries.get(key)
        if entry is None or entry.kind == ARRAY:
            return None
        value = entry.value
        if isinstance(value, bool) or not isinstance(value, int):
            self._window.fail(f"is damaged: {shown(key)} is not a whole number")
        if not least <= value <= most:
            self._window.fail(f"is damaged: {shown(key)} is {value}")
        return value

    def flag(self, key: str) -> bool | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        if not isinstance(entry.value, bool):
            self._window.fail(f"is damaged: {shown(key)} is not a truth value")
        return entry.value

    def array(self, key: str, kinds: tuple[int, ...]) -> Array | None:
        """Return where an array is whose elements have one of the types `kinds`."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if not isinstance(entry.value, Array) or entry.value.kind not in kinds:
            self._window.fail(f"is damaged: {shown(key)} is not an array of the right type")
        return entry.value

    def alignment(self) -> int:
        entry = self._entries.get("general.alignment", Entry(UINT32, 32))
        value = entry.value
        # llama.cpp aborts the process on any other type.
        if entry.kind != UINT32 or not isinstance(value, int):
            self._window.fail("is damaged: its alignment is not a 32-bit number")
        if not 1 <= value <= MAX_ALIGNMENT or value & (value - 1):
            self._window.fail(f"is damaged: its alignment {value} is no power of two up to 2^20")
        return value


def _refuse_other_kinds(window: Window, metadata: _Metadata, tensor_count: int) -> None:
    """Fail for files of the format that are no complete model."""
    if not metadata.text("general.architecture"):
        window.fail("does not name its architecture (general.architecture)")
    kind = metadata.text("general.type") or "model"
    if kind != "model":
        window.fail(f"is no model: it says it is of the type {shown(kind)}")
    parts = metadata.integer("split.count") or 1
    if parts > 1:
        window.fail(f"is one of {parts} parts: join them first with llama-gguf-split --merge")
    if not tensor_count:
        window.fail("holds no tensors")


class _Vocabulary(Struct, frozen=True, kw_only=True):
    size: int = 0
    bos_id: int | None = None
    eos_id: int | None = None
    bos: str = ""
    eos: str = ""
    control_tokens: tuple[str, ...] = ()


def _vocabulary(window: Window, metadata: _Metadata) -> _Vocabulary:
    arrays = {name: metadata.array(_TOKENIZER + name, _ARRAY_KINDS[name]) for name in _ARRAY_KINDS}
    tokens, types, scores = arrays["tokens"], arrays["token_type"], arrays["scores"]
    if tokens is None:
        return _Vocabulary()
    # llama.cpp reads as many types and scores as there are tokens, whatever the arrays hold.
    for name, other in (("types", types), ("scores", scores)):
        if other is not None and other.count != tokens.count:
            window.fail(f"is damaged: {tokens.count} tokens have {other.count} {name}")
    control = _control_ids(window, types) if types else []
    ends = {name: _token_id(metadata, name, tokens.count) for name in ("bos", "eos")}
    wanted = sorted({*control, *(i for i in ends.values() if i is not None)})
    texts = dict(zip(wanted, _token_texts(window, tokens, wanted), strict=True))
    return _Vocabulary(
        size=tokens.count,
        bos_id=ends["bos"],
        eos_id=ends["eos"],
        bos="" if ends["bos"] is None else texts[ends["bos"]],
        eos="" if ends["eos"] is None else texts[ends["eos"]],
        control_tokens=tuple(texts[i] for i in control if texts[i].strip(" \t\r\n\u2581")),
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


def _token_texts(window: Window, tokens: Array, ids: Sequence[int]) -> Iterator[str]:
    """Yield the texts of the tokens `ids`, which ascend."""
    window.seek(tokens.position)
    done = 0
    for index in ids:
        window.skip_strings(index - done)
        yield window.text(MAX_TOKEN_BYTES, f"the token {index}")
        done = index + 1


def _token_id(metadata: _Metadata, name: str, size: int) -> int | None:
    """Return an id; None for one outside of the vocabulary, which llama.cpp ignores as well."""
    value = metadata.integer(f"{_TOKENIZER}{name}_token_id", most=2**32 - 1)
    return value if value is not None and value < size else None


def _adds_bos(metadata: _Metadata) -> bool:
    said = metadata.flag(_TOKENIZER + "add_bos_token")
    if said is not None:
        return said
    if metadata.text(_TOKENIZER + "model") == "gpt2":
        return metadata.text(_TOKENIZER + "pre") in _PRE_WITH_BOS
    return metadata.text(_TOKENIZER + "model") in ("llama", "bert")
