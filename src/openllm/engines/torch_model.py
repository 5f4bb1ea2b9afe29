"""The forward pass of a decoder-only model over rows that end in one column.

Positions and masks are made here, so the batch knows nothing of how a model was trained: models
that take `position_ids` get them, the others find their positions from the mask.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch.nn.utils.rnn import pad_sequence

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
    """Sequences being read: several in one go, or a long one by chunks.

    Attributes:
        tokens: Ids of each row: of its prompt, then of what was made before it had to wait.
        prompt_tokens: How many of them are the prompt's.
        ids: The same as a matrix, [rows, longest], with zeros on the left.
        lengths: What the window will hold of each row.
    """

    def __init__(
        self,
        tokens: Sequence[Sequence[int]],
        prompt_tokens: Sequence[int],
        state: RowState | None = None,
    ) -> None:
        """Begin with `state`, what was kept of the only row's beginning, or with nothing."""
        self.tokens = [tuple(row) for row in tokens]  # The originals grow meanwhile.
        self.lengths = [len(row) for row in tokens]
        self.prompt_tokens = prompt_tokens
        self.longest = max(self.lengths)
        self.ids, _ = padded(self.tokens, "left")
        self.window = KVWindow(len(tokens), self.longest)
        self.cross: list[Stored] = [[] for _ in tokens]
        self.read = 0
        if state is not None:
            self.window.load(state.cached)
            self.read = state.tokens

    def row(self, row: int) -> RowState:
        """Return views of what the window holds of a row that was wholly read."""
        return RowState(self.window.row(row, self.lengths[row]), self.cross[row])


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
        ids = work.ids[:, first:last]
        lengths = [max(0, last - work.longest + length) for length in work.lengths]
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


def padded(
    rows: Sequence[Sequence[int]], side: Literal["left", "right"]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids [rows, longest] with zeros on one side, and the mask that is 0 there."""
    texts = [torch.tensor(row) for row in rows]
    ids = pad_sequence(texts, batch_first=True, padding_side=side)
    ones = [torch.ones_like(text) for text in texts]
    return ids, pad_sequence(ones, batch_first=True, padding_side=side)


def left_padding(lengths: torch.Tensor, columns: int) -> torch.Tensor:
    """Return the mask [rows, columns]: 1 in the last `lengths[row]` columns of each row."""
    return (torch.arange(columns) >= columns - lengths.unsqueeze(1)).long()


def shortened(state: RowState, tokens: int) -> RowState:
    """Return views of a row's first tokens."""
    return RowState(first_tokens(state.cached, tokens), state.cross)
