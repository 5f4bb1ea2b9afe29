"""The running batch: sequences that make a token each in every step, joining and leaving freely."""

from __future__ import annotations

from typing import Any

import torch

from openllm.engines.torch_cache import FIRST_COLUMNS, KVWindow, Stored
from openllm.engines.torch_model import CausalModel, RowState
from openllm.engines.torch_seq2seq import CrossRows, Seq2SeqModel
from openllm.engines.torch_sequence import Sequence


class RunningBatch:
    """Row i of the window holds `sequences[i]`, of which `lengths[i]` tokens were read."""

    def __init__(self, model: CausalModel | Seq2SeqModel, most_rows: int, most_tokens: int) -> None:
        self._model = model
        self._most = (most_rows, most_tokens)
        self._window = KVWindow(0, FIRST_COLUMNS, *self._most)
        self._cross: list[Stored] = []
        self._encoded: CrossRows | None = None
        self.sequences: list[Sequence] = []
        self.lengths: list[int] = []

    def __len__(self) -> int:
        return len(self.sequences)

    def join(self, sequence: Sequence, state: RowState) -> None:
        """Add a sequence whose prompt was read and whose next token is known."""
        self._window.join(state.cached)
        self.sequences.append(sequence)
        self.lengths.append(state.tokens)
        self._cross.append(state.cross)
        self._encoded = None

    def leave(self, row: int) -> None:
        """Take a sequence out; the last row moves into its place."""
        for rows in (self.sequences, self.lengths, self._cross):
            _take_out(rows, row)
        self._window.leave(row, max(self.lengths, default=0))
        self._encoded = None
        if not self.sequences:
            self._window = KVWindow(0, FIRST_COLUMNS, *self._most)

    def scrub(self) -> None:
        """Let no row be hurt by numbers that are not finite, which a failed one left."""
        self._window.scrub()

    def state(self, row: int) -> RowState:
        """Return views of what is kept of a row."""
        return RowState(self._window.row(row, self.lengths[row]), self._cross[row])

    def step(self) -> torch.Tensor:
        """Read every sequence's last token; return the logits [rows, vocabulary] of the next."""
        lengths = [length + 1 for length in self.lengths]
        ids = [sequence.tokens[-1] for sequence in self.sequences]
        logits = self._model.step(ids, lengths, self._window, self._cross_rows())
        self.lengths = lengths
        return logits

    def _cross_rows(self) -> Any:
        if isinstance(self._model, Seq2SeqModel) and self._encoded is None:
            self._encoded = CrossRows(self._cross, self._model.hidden_size)
        return self._encoded


def _take_out(rows: list[Any], row: int) -> None:
    last = rows.pop()
    if row < len(rows):
        rows[row] = last
