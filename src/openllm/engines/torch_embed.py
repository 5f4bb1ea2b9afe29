"""Embeddings from a transformers model: the last hidden states, pooled, of unit length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import normalize

from openllm.engines.torch_lora import Lora
from openllm.engines.torch_model import padded
from openllm.engines.torch_uses import Pooling, reading_part
from openllm.errors import EngineError

BATCH_TOKENS = 2048
"""Columns times rows of one pass."""


class Embedder:
    """Runs the model without its head; called on the worker's thread."""

    def __init__(self, model: Any, lora: Lora, device: torch.device, pooling: Pooling) -> None:
        self._encoder = reading_part(model)
        caches = hasattr(self._encoder.config, "use_cache")
        self._options = {"use_cache": False} if caches else {}
        self._lora = lora
        self._device = device
        self._pooling = pooling

    def embed(self, inputs: Sequence[Sequence[int]]) -> list[bytes]:
        """Return of each input its vector as float32 bytes in native order; all in one pass.

        Raises:
            EngineError: The model gave numbers that are not finite.
        """
        ids, mask = padded(inputs, "right")
        with self._lora.on([""] * len(inputs)):
            hidden = self._encoder(
                input_ids=ids.to(self._device),
                attention_mask=mask.to(self._device),
                **self._options,
            ).last_hidden_state
        vectors = normalize(self._pool(hidden.float().cpu(), mask), dim=-1)
        if not bool(vectors.isfinite().all()):
            raise EngineError(
                "the model's hidden states are not finite numbers, so they embed nothing; load it"
                " with dtype=float32, and check its files"
            )
        return [vector.numpy().tobytes() for vector in vectors]

    def _pool(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        if self._pooling == "cls":
            return hidden[:, 0]
        if self._pooling == "last":
            return hidden[torch.arange(len(hidden)), mask.sum(1) - 1]
        weights = mask.unsqueeze(-1).float()
        return (hidden * weights).sum(1) / weights.sum(1)


def batches(inputs: Sequence[Sequence[int]]) -> list[list[int]]:
    """Divide inputs, given by their places, into passes of inputs of like length.

    A pass holds up the sequences that run, so it is short, unless one input is long.
    """
    found: list[list[int]] = []
    for at in sorted(range(len(inputs)), key=lambda at: len(inputs[at])):
        if found and len(inputs[at]) * (len(found[-1]) + 1) <= BATCH_TOKENS:
            found[-1].append(at)
        else:
            found.append([at])
    return found
