"""Encoded training data: shards of samples, packed into rows of whole samples."""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from tools.train_demo.chat import segments
from tools.train_demo.corpus import Corpus

SHARD_SAMPLES = 6_000
LONGEST = 1024
# Samples up to this many tokens fit every row; longer ones may wait for a long row.
SHORT = 200


@dataclass(frozen=True)
class Shard:
    """Samples laid end to end; sample i is ``tokens[starts[i]:starts[i + 1]]``."""

    tokens: npt.NDArray[np.uint16]
    weights: npt.NDArray[np.uint8]
    starts: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Rows:
    """A batch of packed rows [rows, length]; ``document`` numbers the samples in a row."""

    tokens: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float32]
    document: npt.NDArray[np.int32]


def load_shard(folder: Path, index: int, tokenizer: Tokenizer) -> Shard:
    """Load shard ``index`` from the folder, generating and storing it when it is missing."""
    path = folder / f"shard-{index:03d}.npz"
    if not path.exists():
        partial = path.with_suffix(".partial.npz")
        shard = make_shard(index, tokenizer)
        np.savez(partial, tokens=shard.tokens, weights=shard.weights, starts=shard.starts)
        partial.rename(path)
    with np.load(path) as data:
        return Shard(data["tokens"], data["weights"], data["starts"])


def make_shard(index: int, tokenizer: Tokenizer, samples: int = SHARD_SAMPLES) -> Shard:
    """Generate and encode the samples of one shard; samples are cut at ``LONGEST`` tokens."""
    pieces = [segments(sample) for sample in islice(Corpus().samples(1000 + index), samples)]
    encoded = iter(tokenizer.encode_batch([text for parts in pieces for text, _ in parts]))
    tokens: list[int] = []
    weights: list[int] = []
    starts = [0]
    for parts in pieces:
        for _, weight in parts:
            ids = next(encoded).ids
            tokens += ids
            weights += [weight] * len(ids)
        end = min(len(tokens), starts[-1] + LONGEST)
        del tokens[end:], weights[end:]
        starts.append(end)
    return Shard(
        np.array(tokens, np.uint16), np.array(weights, np.uint8), np.array(starts, np.int64)
    )


class Packer:
    """Draws batches of packed rows from the shards, one pass over each shard in turn."""

    def __init__(self, folder: Path, tokenizer: Tokenizer, first: int, stride: int = 1) -> None:
        self._folder, self._tokenizer = folder, tokenizer
        self._rng = random.Random(first)
        self.next_shard, self._stride = first, stride
        self._shard = load_shard(folder, first, tokenizer)
        self._order: list[int] = []
        self._waiting: list[int] = []

    def _draw(self) -> int:
        if not self._order:
            self._shard = load_shard(self._folder, self.next_shard, self._tokenizer)
            self.next_shard += self._stride
            self._order = list(range(len(self._shard.starts) - 1))
            self._waiting = []
            self._rng.shuffle(self._order)
        return self._order.pop()

    def batch(self, rows: int, length: int) -> Rows:
        """Return rows of whole samples; samples longer than a row wait for longer rows."""
        out = Rows(
            np.full((rows, length), 3, np.int64),
            np.zeros((rows, length), np.float32),
            np.full((rows, length), -1, np.int32),
        )
        for row in range(rows):
            self._fill(out, row, length)
        return out

    def _fill(self, out: Rows, row: int, length: int) -> None:
        at, document, skipped = 0, 0, list[int]()
        while len(skipped) < 6 and length - at > 24:
            index = self._waiting.pop() if length == LONGEST and self._waiting else self._draw()
            start, end = self._shard.starts[index : index + 2]
            size = int(end - start)
            if size > length - at:
                (self._waiting if size > SHORT else skipped).append(index)
                if size > SHORT and length == LONGEST:
                    break
                continue
            out.tokens[row, at : at + size] = self._shard.tokens[start:end]
            out.weights[row, at : at + size] = self._shard.weights[start:end] / 10.0
            out.document[row, at : at + size] = document
            at, document = at + size, document + 1
        self._order += skipped
