"""The layout of a GGUF file: metadata entries and tensor descriptions, each field checked.

Written after https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; the limits are
llama.cpp's own or stricter.
"""

from __future__ import annotations

from struct import Struct as Layout

from msgspec import Struct

from openllm.models.gguf_window import Window, shown

MAX_KEYS = 4096
MAX_KEY_BYTES = 1024
MAX_TENSORS = 131_072
MAX_TENSOR_NAME_BYTES = 63
MAX_DIMENSIONS = 4
MAX_TEMPLATE_BYTES = 128 * 1024
MAX_LAYERS = 512
"""As many as llama.cpp has room for; with more it aborts the process."""

UINT8, INT8, UINT32, INT32, FLOAT32, STRING, ARRAY = 0, 1, 4, 5, 6, 8, 9

_SCALARS = {
    kind: Layout("<" + code)
    for kind, code in zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True)
}

_FLOAT32_TENSOR = 0
# Tensor type: (elements, bytes) of a block. A number that is absent is unknown or was withdrawn.
# fmt: off
_BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34),
    9: (32, 40), 10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210),
    15: (256, 292), 16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18),
    21: (256, 110), 22: (256, 82), 23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4),
    27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2), 34: (256, 54), 35: (256, 66),
    39: (32, 17), 40: (64, 36), 41: (128, 18),
}
# fmt: on

_FLOAT32_ENDS = ("norm.weight", ".bias")
"""Ends of the names of tensors that llama.cpp multiplies by or adds directly."""

INTEGERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 7: "B", 10: "Q", 11: "q"}
"""Type of an array's elements: their code in Python's `array`."""

# Ends of the keys whose arrays are kept: a number for each layer.
_LAYER_KEYS = (
    ".attention.head_count",
    ".attention.head_count_kv",
    ".attention.sliding_window_pattern",
    ".feed_forward_length",
)

# Text values that are kept, with the most bytes each may have; other strings are skipped.
_TEXT_KEYS = {
    "general.architecture": 64,
    "general.name": 4096,
    "general.type": 64,
    "tokenizer.ggml.model": 64,
    "tokenizer.ggml.pre": 64,
    "tokenizer.chat_template": MAX_TEMPLATE_BYTES,
}


class Array(Struct, frozen=True):
    """An array that was checked and skipped: element type, length, offset of its first element.

    `content` are its bytes where it is one that tells a number for each layer.
    """

    kind: int
    count: int
    position: int
    content: bytes = b""


class Entry(Struct, frozen=True):
    """A metadata value of the type `kind`; `value` is None for a text that is not kept."""

    kind: int
    value: int | float | bool | str | Array | None


def read_metadata(window: Window, count: int) -> dict[str, Entry]:
    """Read `count` entries; arrays and texts nobody asks for are skipped, not made."""
    _limit(window, count, MAX_KEYS, "metadata keys")
    entries: dict[str, Entry] = {}
    for _ in range(count):
        key = window.text(MAX_KEY_BYTES, "a metadata key")
        if key in entries:
            window.fail(f"is damaged: it has the metadata key {shown(key)} twice")
        entries[key] = _entry(window, key)
    return entries


def _entry(window: Window, key: str) -> Entry:
    kind = window.uint32()
    if kind in _SCALARS:
        return Entry(kind, window.scalar(_SCALARS[kind]))
    if kind == ARRAY:
        return Entry(kind, _array(window, key))
    if kind != STRING:
        window.fail(f"is damaged: the metadata key {shown(key)} has the unknown type {kind}")
    if key in _TEXT_KEYS:
        return Entry(kind, window.text(_TEXT_KEYS[key], f"the value of {key}"))
    window.skip(window.uint64())
    return Entry(kind, None)


def _array(window: Window, key: str) -> Array:
    kind, count = window.uint32(), window.uint64()
    array = Array(kind, count, window.position)
    if kind == STRING:
        window.skip_strings(count)
    elif kind in INTEGERS and key.endswith(_LAYER_KEYS) and count <= MAX_LAYERS:
        return Array(kind, count, window.position, window.take(count * _SCALARS[kind].size))
    elif kind in _SCALARS:
        window.skip(count * _SCALARS[kind].size)
    else:
        window.fail(f"is damaged: {shown(key)} is an array of the unsupported type {kind}")
    return array


def read_tensors(window: Window, count: int, alignment: int) -> tuple[int, int]:
    """Return the parameters and the bytes of data of `count` tensors, all inside the file.

    The data of a tensor must follow that of the one before, as llama.cpp demands.
    """
    _limit(window, count, MAX_TENSORS, "tensors")
    names: set[str] = set()
    parameters = end = 0
    for _ in range(count):
        name = window.text(MAX_TENSOR_NAME_BYTES, "a tensor name")
        if name in names:
            window.fail(f"is damaged: it has the tensor {shown(name)} twice")
        names.add(name)
        elements, size = _tensor_size(window, name)
        offset, due = window.uint64(), _padded(end, alignment)
        if offset != due:
            window.fail(f"is damaged: the tensor {shown(name)} is at offset {offset}, not {due}")
        parameters, end = parameters + elements, due + size
    needed = _padded(window.position, alignment) + end
    if needed > window.size:
        window.fail(f"is truncated: needs {needed} bytes, has {window.size}")
    return parameters, end


def _tensor_size(window: Window, name: str) -> tuple[int, int]:
    """Return the elements and the bytes of the tensor whose shape and type follow."""
    dimensions = window.uint32()
    _limit(window, dimensions, MAX_DIMENSIONS, f"dimensions of the tensor {shown(name)}")
    shape = [window.uint64() for _ in range(dimensions)]
    kind = window.uint32()
    if kind not in _BLOCKS:
        window.fail(f"has the tensor {shown(name)} of the unknown type {kind}")
    if kind != _FLOAT32_TENSOR and name.endswith(_FLOAT32_ENDS):
        # llama.cpp aborts the process when it first computes with it.
        window.fail(f"has the tensor {shown(name)} of type {kind}, not float32: convert it again")
    block, width = _BLOCKS[kind]
    elements = 1
    for length in shape:
        elements *= length
    if not 1 <= elements < 2**63 // width:
        window.fail(f"is damaged: the tensor {shown(name)} has the impossible shape {shape}")
    if (shape[0] if shape else 1) % block:
        window.fail(f"is damaged: rows of the tensor {shown(name)} are no multiple of {block}")
    return elements, elements // block * width


def _limit(window: Window, count: int, most: int, what: str) -> None:
    if count > most:
        window.fail(f"is damaged: it claims {count} {what}, at most {most} are possible")


def _padded(position: int, alignment: int) -> int:
    return (position + alignment - 1) // alignment * alignment
