"""Embeddings from a transformers model: the last hidden states, pooled, of unit length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch.nn.functional import normalize

Pooling = Literal["mean", "last", "cls"]

BATCH_TOKENS = 2048
"""Columns times rows of one forward pass."""


class Embedder:
    """Runs the model without its head; called on the worker's thread."""

    def __init__(self, model: Any, device: torch.device, pooling: Pooling) -> None:
        self._encoder = model.get_encoder() if model.config.is_encoder_decoder else model.base_model
        self._device = device
        self._pooling = pooling

    def embed(self, inputs: Sequence[Sequence[int]]) -> list[bytes]:
        """Return of each input its vector as float32 bytes in native order.

        Inputs of like length share a pass; padding is on the right and masked.
        """
        order = sorted(range(len(inputs)), key=lambda at: len(inputs[at]))
        vectors = [b""] * len(inputs)
        for rows in _batches(order, [len(ids) for ids in inputs]):
            pooled = self._pass([inputs[row] for row in rows])
            for row, vector in zip(rows, pooled, strict=True):
                vectors[row] = vector.numpy().tobytes()
        return vectors

    def _pass(self, inputs: Sequence[Sequence[int]]) -> torch.Tensor:
        lengths = torch.tensor([len(ids) for ids in inputs])
        ids = torch.zeros(len(inputs), int(lengths.max()), dtype=torch.long)
        for row, tokens in enumerate(inputs):
            ids[row, : len(tokens)] = torch.tensor(tokens)
        mask = (torch.arange(ids.shape[1]) < lengths.unsqueeze(1)).long()
        options: dict[str, Any] = {"use_cache": False} if not self._is_encoder else {}
        output = self._encoder(
            input_ids=ids.to(self._device), attention_mask=mask.to(self._device), **options
        )
        hidden = output.last_hidden_state.float().cpu()
        return normalize(self._pool(hidden, mask, lengths), dim=-1)

    @property
    def _is_encoder(self) -> bool:
        return not hasattr(self._encoder.config, "use_cache")

    def _pool(
        self, hidden: torch.Tensor, mask: torch.Tensor, lengths: torch.Tensor
    ) -> torch.Tensor:
        if self._pooling == "cls":
            return hidden[:, 0]
        if self._pooling == "last":
            return hidden[torch.arange(len(hidden)), lengths - 1]
        weights = mask.unsqueeze(-1).float()
        return (hidden * weights).sum(1) / weights.sum(1)


def _batches(order: Sequence[int], lengths: Sequence[int]) -> list[list[int]]:
    batches: list[list[int]] = []
    for row in order:
        if batches and lengths[row] * (len(batches[-1]) + 1) <= BATCH_TOKENS:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches
