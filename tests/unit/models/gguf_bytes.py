"""GGUF files written byte by byte, right ones and wrong ones, with the place of every integer."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

UINT8, UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY, UINT64 = 0, 4, 5, 6, 7, 8, 9, 10
CODES = {UINT8: "B", UINT32: "I", INT32: "i", FLOAT32: "f", BOOL: "?", UINT64: "Q"}

TOKENS = ["<unk>", "<s>", "</s>", "<tool>", "\n\n", "a", "b"]
TOKEN_TYPES = [2, 3, 3, 4, 4, 1, 1]


@dataclass
class GgufBytes:
    """Builds a file; `integers` and `floats` are the (offset, width) of its header's numbers."""

    content: bytearray = field(default_factory=bytearray)
    integers: list[tuple[int, int]] = field(default_factory=list)
    floats: list[tuple[int, int]] = field(default_factory=list)

    def number(self, code: str, value: float) -> None:
        packed = struct.pack("<" + code, value)
        numbers = self.floats if code == "f" else self.integers
        numbers.append((len(self.content), len(packed)))
        self.content += packed

    def string(self, text: str | bytes) -> None:
        encoded = text.encode() if isinstance(text, str) else text
        self.number("Q", len(encoded))
        self.content += encoded

    def value(self, kind: int, value: object) -> None:
        if kind == STRING:
            self.string(value)
        elif kind == ARRAY:
            of, items = value
            self.number("I", of)
            self.number("Q", len(items))
            for item in items:
                self.value(of, item)
        else:
            self.number(CODES[kind], value)


Metadata = dict[str, tuple[int, object]]
Tensor = tuple[str, tuple[int, ...], int, int]


def right_metadata() -> Metadata:
    return {
        "general.architecture": (STRING, "llama"),
        "general.type": (STRING, "model"),
        "general.name": (STRING, "tiny"),
        "general.alignment": (UINT32, 32),
        "general.file_type": (UINT32, 7),
        "llama.context_length": (UINT32, 512),
        "llama.embedding_length": (UINT32, 32),
        "llama.block_count": (UINT32, 2),
        "llama.attention.head_count": (UINT32, 4),
        "llama.attention.head_count_kv": (ARRAY, (UINT32, [2, 1])),
        "llama.attention.layer_norm_rms_epsilon": (FLOAT32, 1e-5),
        "tokenizer.ggml.model": (STRING, "llama"),
        "tokenizer.ggml.tokens": (ARRAY, (STRING, TOKENS)),
        "tokenizer.ggml.scores": (ARRAY, (FLOAT32, [0.0] * len(TOKENS))),
        "tokenizer.ggml.token_type": (ARRAY, (INT32, TOKEN_TYPES)),
        "tokenizer.ggml.merges": (ARRAY, (STRING, ["a b"])),
        "tokenizer.ggml.bos_token_id": (UINT32, 1),
        "tokenizer.ggml.eos_token_id": (UINT32, 2),
        "tokenizer.ggml.add_bos_token": (BOOL, True),
        "tokenizer.chat_template": (STRING, "{{ messages }}"),
    }


# Name, shape, type (0: float32, 8: Q8_0), offset of the data.
RIGHT_TENSORS: tuple[Tensor, ...] = (
    ("token_embd.weight", (32, 7), 0, 0),
    ("output.weight", (32, 2), 8, 896),
)
DATA_SIZE = 896 + 2 * 34


def build(
    metadata: Metadata | None = None,
    tensors: tuple[Tensor, ...] = RIGHT_TENSORS,
    *,
    version: int = 3,
    data_size: int = DATA_SIZE,
) -> GgufBytes:
    """Build a file, a right one unless told otherwise."""
    entries = right_metadata() if metadata is None else metadata
    file = GgufBytes(bytearray(b"GGUF"))
    file.number("I", version)
    file.number("Q", len(tensors))
    file.number("Q", len(entries))
    for key, (kind, value) in entries.items():
        file.string(key)
        file.number("I", kind)
        file.value(kind, value)
    for name, shape, kind, offset in tensors:
        file.string(name)
        file.number("I", len(shape))
        for length in shape:
            file.number("Q", length)
        file.number("I", kind)
        file.number("Q", offset)
    file.content += bytes(-len(file.content) % 32 + data_size)
    return file


def wide_model(size: int) -> bytes:
    """Return a file with `size` bytes of zeros as weights, and 128 KiB of KV cache a token."""
    return wide_header(size) + bytes(size)


def wide_header(size: int) -> bytes:
    """Return what that file begins with, without the weights."""
    shape: dict[str, tuple[int, object]] = {
        "llama.context_length": (UINT32, 131072),
        "llama.embedding_length": (UINT32, 4096),
        "llama.block_count": (UINT32, 32),
        "llama.attention.head_count": (UINT32, 32),
        "llama.attention.head_count_kv": (UINT32, 8),
    }
    tensors: tuple[Tensor, ...] = (("t", (size // 4,), 0, 0),)
    return bytes(build(right_metadata() | shape, tensors, data_size=0).content)
