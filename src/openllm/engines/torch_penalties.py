"""Penalties and biases, added to the few logits they concern.

A sequence keeps the tokens it has seen as a list of ids with their counts, which grows by a token
a step; no table of the batch's vocabularies is ever made.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from openllm.types import SamplingParams

_Ids = npt.NDArray[np.int64]


class TokenCounts:
    """How often each token has appeared in prompt and output."""

    __slots__ = ("_at", "_counts", "_ids")

    def __init__(self, prompt_ids: Sequence[int], vocab_size: int) -> None:
        """Count the prompt, save for ids beyond the logits (of an image, say)."""
        prompt = np.asarray(prompt_ids, dtype=np.int64)
        ids, counts = np.unique(prompt[prompt < vocab_size], return_counts=True)
        self._at = {token_id: at for at, token_id in enumerate(ids.tolist())}
        self._ids: _Ids = ids
        self._counts = counts.astype(np.float32)

    def add(self, token_id: int) -> None:
        at = self._at.setdefault(token_id, len(self._at))
        if at == len(self._ids):
            self._ids = np.concatenate([self._ids, np.zeros(at + 64, np.int64)])
            self._counts = np.concatenate([self._counts, np.zeros(at + 64, np.float32)])
        self._ids[at] = token_id
        self._counts[at] += 1

    @property
    def ids(self) -> _Ids:
        """Distinct ids seen, in no order."""
        return self._ids[: len(self._at)]

    @property
    def counts(self) -> npt.NDArray[np.float32]:
        """How often each of `ids` was seen."""
        return self._counts[: len(self._at)]


class Penalised(NamedTuple):
    """A row of the batch that has penalties."""

    row: int
    params: SamplingParams
    counts: TokenCounts


def apply_penalties(logits: torch.Tensor, rows: Sequence[Penalised]) -> None:
    """Lower the logits of tokens seen: first `repetition_penalty`, then the other two.

    Args:
        logits: float32 [n, vocab], contiguous; changed in place.
        rows: Those with penalties.
    """
    vocab = logits.shape[1]
    entries = np.concatenate([each.counts.ids + each.row * vocab for each in rows])
    counts = np.concatenate([each.counts.counts for each in rows])
    lengths = [len(each.counts.ids) for each in rows]

    def spread(values: list[float]) -> Any:
        repeated = np.repeat(np.asarray(values, np.float32), lengths)
        return torch.from_numpy(repeated).to(logits.device)

    index = torch.from_numpy(entries).to(logits.device)
    scale = spread([each.params.repetition_penalty for each in rows])
    presence = spread([each.params.presence_penalty for each in rows])
    frequency = spread([each.params.frequency_penalty for each in rows])
    flat = logits.view(-1)
    values = flat[index]
    values = torch.where(values > 0, values / scale, values * scale)
    flat[index] = values - presence - frequency * torch.from_numpy(counts).to(logits.device)


class Biases:
    """The `logit_bias` of a batch's rows as one sparse sum."""

    def __init__(
        self, rows: Sequence[tuple[int, dict[int, float]]], vocab: int, device: torch.device
    ) -> None:
        pairs = [
            (row * vocab + token_id, bias)
            for row, given in rows
            for token_id, bias in given.items()
        ]
        self._index = torch.tensor([index for index, _ in pairs], device=device)
        self._values = torch.tensor([bias for _, bias in pairs], dtype=torch.float32, device=device)

    def apply(self, logits: torch.Tensor) -> None:
        """Add them to float32 [n, vocab], contiguous, in place."""
        logits.view(-1).index_add_(0, self._index, self._values)
