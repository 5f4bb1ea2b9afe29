"""The forward pass of a decoder-only model over rows that end in one column.

Positions and masks are made here, so the batch knows nothing of how a model was trained: models
that take `position_ids` get them, the others find their positions from the mask.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch

from openllm.engines.torch_cache import KVWindow, Stored, first_tokens, size_of


class RowState:
    """What a model keeps of one sequence: [1, heads, tokens, size] of each layer.

    Attributes:
        cached: Keys and values of the tokens read so far.
        cross: Keys and values of an encoder's output; empty for decoder-only models.
    """

    __slots__ = ("cached", "cross")

    def __init__(self, cached: Stored, cross: Stored | None = None) -> None:
        self.cached = cached
        self.cross = cross or []

    @property
    def tokens(self) -> int:
        return size_of(self.cached)


class Prefill:
    """Prompts being read: several in one go, or a long one by chunks.

    Attributes:
        prompts: Token ids of each row.
        state: What was kept of the only row's beginning; None to read from the first token.
    """

    def __init__(self, prompts: Sequence[Sequence[int]], state: RowState | None = None) -> None:
        self.prompts = [tuple(prompt) for prompt in prompts]  # The originals grow meanwhile.
        self.longest = max(map(len, prompts))
        self.window = KVWindow(len(prompts), self.longest)
        self.cross: list[Stored] = [[] for _ in prompts]
        self.read = 0
        if state is not None:
            self.window.load(state.cached)
            self.read = state.tokens

    def row(self, row: int) -> RowState:
        """Return views of what the window holds of a row that was wholly read."""
        tokens = min(len(self.prompts[row]), self.window.end)
        return RowState(self.window.row(row, tokens), self.cross[row])


class CausalModel:
    """A transformers model with a language-model head, called with the window as its cache."""

    def __init__(self, model: Any, device: torch.device) -> None:
        self._model = model
        self._device = device
        takes = inspect.signature(model.forward).parameters
        self._takes_positions = "position_ids" in takes
        self._keeps_logits = "logits_to_keep" in takes

    def prefill(self, work: Prefill, most: int) -> torch.Tensor | None:
        """Read up to `most` columns; return the logits [rows, vocabulary] when all are read."""
        first, last = work.read, min(work.longest, work.read + most)
        ids = torch.zeros(len(work.prompts), last - first, dtype=torch.long)
        lengths = []
        for row, prompt in enumerate(work.prompts):
            pad = work.longest - len(prompt)
            lengths.append(max(0, last - pad))
            if last > pad:
                chosen = prompt[max(0, first - pad) : last - pad]
                ids[row, len(ids[row]) - len(chosen) :] = torch.tensor(chosen)
        logits = self._forward(ids, lengths, work.window)
        work.read = last
        return logits if last == work.longest else None

    def step(
        self, ids: Sequence[int], lengths: Sequence[int], window: KVWindow, cross: object = None
    ) -> torch.Tensor:
        """Read one token of each row, whose lengths count it; return logits [rows, vocabulary]."""
        del cross
        window.make_room(1)
        return self._forward(torch.tensor(ids).unsqueeze(1), lengths, window)

    def _forward(self, ids: torch.Tensor, lengths: Sequence[int], window: KVWindow) -> torch.Tensor:
        new = ids.shape[1]
        columns = window.end - window.start + new
        valid = torch.tensor(lengths)
        options: dict[str, Any] = {}
        if self._takes_positions:
            positions = valid.unsqueeze(1) - new + torch.arange(new)
            options["position_ids"] = positions.clamp_(min=0).to(self._device)
        if min(lengths) < columns:
            options["attention_mask"] = left_padding(valid, columns).to(self._device)
        if self._keeps_logits:
            options["logits_to_keep"] = 1
        output = self._model(
            ids.to(self._device), past_key_values=window, use_cache=True, **options
        )
        window.advance(new)
        return output.logits[:, -1]


def left_padding(lengths: torch.Tensor, columns: int) -> torch.Tensor:
    """Return the mask [rows, columns]: 1 in the last `lengths[row]` columns of each row."""
    return (torch.arange(columns) >= columns - lengths.unsqueeze(1)).long()


def shortened(state: RowState, tokens: int) -> RowState:
    """Return views of a row's first tokens."""
    return RowState(first_tokens(state.cached, tokens), state.cross)
