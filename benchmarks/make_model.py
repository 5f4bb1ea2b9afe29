"""Makes the 135 M-parameter model of the benchmarks: the Llama shape, random weights, Q8_0.

    python -m benchmarks.make_model [FILE]

Speed depends on shapes, not on sense. The tokenizer is a true byte-level BPE whose tokens are
letters, so whatever the model says is printable text.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterator
from itertools import islice, product
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import numpy as np

from tools.llama_gguf import Array, LlamaShape, write_llama_gguf

BUILD = Path(__file__).parent.parent / "build"
MODEL = BUILD / "benchmark-135m.gguf"

SHAPE = LlamaShape(
    vocab_size=49_152,
    hidden_size=576,
    layers=30,
    heads=9,
    kv_heads=3,
    intermediate_size=1536,
    context_length=2048,
)
CONTROLS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def make_model(path: Path = MODEL) -> Path:
    """Return `path`, written first unless it is there; takes some seconds and 145 MB."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        write_llama_gguf(
            partial, SHAPE, random_tensor, tokenizer(), CHAT_TEMPLATE, name="benchmark-135m"
        )
        partial.replace(path)
    return path


def random_tensor(name: str, model: LlamaShape = SHAPE) -> Array:
    """Return the weights of a tensor, the same ones for the same name; the vocabulary is ours."""
    shape = model.tensor_shapes()[name]
    if len(shape) == 1:
        return np.ones(shape, np.float32)
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    weights: Array = rng.standard_normal(shape, dtype=np.float32) * 0.02
    if name == "model.embed_tokens.weight":
        # Embeddings are tied to the output: small rows are tokens that are never likeliest.
        weights[[index for text, index in vocabulary().items() if not text.isascii()]] *= 0.01
        weights[-len(CONTROLS) :] *= 0.01
    return weights


def tokenizer() -> dict[str, Any]:
    """Return the tokenizer in the form of a `tokenizer.json`."""
    ids = vocabulary()
    added = [{"id": ids[text], "content": text} for text in CONTROLS]
    return {"model": {"vocab": ids, "merges": list(merges())}, "added_tokens": added}


def vocabulary() -> dict[str, int]:
    """Return the ids of all tokens: bytes, merged letters, controls."""
    texts = [*byte_characters(), *("".join(pair) for pair in merges()), *CONTROLS]
    return {text: index for index, text in enumerate(texts)}


def merges() -> Iterator[tuple[str, str]]:
    """Yield the merges: all pairs of letters, then as many pairs of pairs as there is room for."""
    letters = [(first, second) for first in ascii_lowercase for second in ascii_lowercase]
    yield from letters
    pairs = [first + second for first, second in letters]
    room = SHAPE.vocab_size - 256 - len(pairs) - len(CONTROLS)
    yield from islice(product(pairs, repeat=2), room)


def byte_characters() -> list[str]:
    """Return the character that stands for each byte in byte-level BPE, printable ones first."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = 256 - len(printable)
    return [chr(byte) for byte in printable] + [chr(256 + number) for number in range(rest)]


if __name__ == "__main__":
    print(make_model(*(Path(argument) for argument in sys.argv[1:2])))
