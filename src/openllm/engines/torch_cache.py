"""The keys and values of a batch: rows of unlike length that all end in the same column.

    row 0   . . . a b c d          "." is padding, masked by whoever runs the model
    row 1   e f g h i j k
            ^start        ^end

The step's new token of every row goes into column `end`, so a model sees a plain left-padded batch,
whatever its positions are made of. Rows join and leave by copies of single rows; when the columns
run out the window moves back to the first one. What the buffers hold beyond the rows in use is
room to grow, which stays within a number of tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache

Stored = list[tuple[torch.Tensor, torch.Tensor]]
"""Of each layer the keys and the values of one row: [1, heads, tokens, size]."""

FIRST_COLUMNS = 256


class KVWindow(Cache):
    """A transformers cache over buffers [rows, heads, columns, size] that are reused.

    The model's forward pass writes behind `end`; call `advance` after it. Buffers are made at the
    first write, when their sizes are known.

    Attributes:
        rows: Rows in use.
        start: The first column that any row uses.
        end: The column after the last one in use.
        held: Tokens that the buffers have room for: their rows times their columns.
    """

    def __init__(self, rows: int, columns: int, most_rows: int = 0, most_tokens: int = 0) -> None:
        """Make a window; one that rows join or that makes room grows within the last two.

        Args:
            rows: Rows in use from the beginning.
            columns: Columns to begin with.
            most_rows: Rows that may be in use.
            most_tokens: Of `held`, unless the rows in use need more.
        """
        super().__init__(layers=[])
        self.rows = rows
        self.start = 0
        self.end = 0
        self._keys: list[torch.Tensor] = []
        self._values: list[torch.Tensor] = []
        self._columns = columns
        self._most_rows = most_rows
        self._most_tokens = most_tokens

    @property
    def held(self) -> int:
        return self._keys[0].shape[0] * self._keys[0].shape[2] if self._keys else 0

    def update(
        self, key: torch.Tensor, value: torch.Tensor, layer: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write [rows, heads, new, size] behind the end; return all columns from the start."""
        if layer == len(self._keys):
            self._keys.append(self._buffer(key))
            self._values.append(self._buffer(value))
        end = self.end + key.shape[2]
        keys, values = self._keys[layer], self._values[layer]
        keys[: self.rows, :, self.end : end] = key
        values[: self.rows, :, self.end : end] = value
        return keys[: self.rows, :, self.start : end], values[: self.rows, :, self.start : end]

    def advance(self, tokens: int) -> None:
        self.end += tokens

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.end - self.start

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        return self.end - self.start + int(query_length), 0

    def get_max_length(self, layer_idx: int = 0) -> int:
        return -1

    def get_max_cache_shape(self, layer_idx: int = 0) -> int:
        return -1

    @property
    def is_sliding(self) -> list[bool]:
        return [False] * max(1, len(self._keys))

    @property
    def is_initialized(self) -> bool:
        return bool(self._keys)

    @property
    def is_compileable(self) -> bool:
        return False

    def __len__(self) -> int:
        return len(self._keys)

    def row(self, row: int, tokens: int, skip: int = 0) -> Stored:
        """Return views of the last `tokens` columns of a row, less the last `skip` of all."""
        end = self.end - skip
        columns = slice(end - tokens, end)
        return [
            (keys[row : row + 1, :, columns], values[row : row + 1, :, columns])
            for keys, values in zip(self._keys, self._values, strict=True)
        ]

    def load(self, stored: Stored) -> None:
        """Begin a window of one row with what is stored of it."""
        tokens = stored[0][0].shape[2]
        for keys, values in stored:
            self._keys.append(self._buffer(keys))
            self._values.append(self._buffer(values))
            self._keys[-1][:1, :, :tokens] = keys
            self._values[-1][:1, :, :tokens] = values
        self.end = tokens

    def join(self, stored: Stored) -> None:
        """Add one row, given by what is stored of it."""
        tokens = size_of(stored)
        if not self.rows:
            self.start = self.end = 0
        used = self.end - self.start
        longest = max(used, tokens)
        if not self._keys:
            self._columns = self._roomy(1, longest)[1]
            for keys, values in stored:
                self._keys.append(self._buffer(keys))
                self._values.append(self._buffer(values))
        if self.rows == len(self._keys[0]) or longest > self._columns:
            self._resize(self.rows + 1, longest)
        if tokens > self.end:
            self._move(tokens - used)
        columns = slice(self.end - tokens, self.end)
        for layer, (keys, values) in enumerate(stored):
            self._keys[layer][self.rows, :, columns] = keys[0]
            self._values[layer][self.rows, :, columns] = values[0]
        self.start = self.end - longest
        self.rows += 1

    def leave(self, row: int, longest: int) -> None:
        """Take a row out; the last row gets its place. `longest` is the longest of the rest."""
        last = self.rows - 1
        if row != last:
            columns = slice(self.start, self.end)
            for buffer in (*self._keys, *self._values):
                buffer[row, :, columns] = buffer[last, :, columns]
        self.rows = last
        self.start = self.end - longest

    def make_room(self, tokens: int) -> None:
        """See that so many columns can be written: move the window back, or grow."""
        if self.end + tokens <= self._columns:
            return
        need = self.end - self.start + tokens
        if need > self._columns // 2 and self._roomy(self.rows, need)[1] > self._columns:
            self._resize(self.rows, need)
        else:
            self._move(0)

    def scrub(self) -> None:
        """Replace what is no finite number by 0.

        A row that is masked counts with a probability of 0, and NaN times 0 is NaN: what one
        sequence left behind would end those that come after it in its row.
        """
        for buffer in (*self._keys, *self._values):
            buffer.nan_to_num_(0.0, 0.0, 0.0)

    def _buffer(self, like: torch.Tensor) -> torch.Tensor:
        _, heads, _, size = like.shape
        shape = (max(1, self.rows), heads, self._columns, size)
        return torch.zeros(shape, dtype=like.dtype, device=like.device)  # Not NaN: see `scrub`.

    def _roomy(self, rows: int, columns: int) -> tuple[int, int]:
        """Return rows and columns of buffers that hold so many, with as many again if allowed."""
        wide = max(columns, min(max(FIRST_COLUMNS, 2 * columns), self._most_tokens // rows))
        tall = max(rows, min(self._most_rows, 2 * rows, self._most_tokens // wide))
        return tall, wide

    def _move(self, start: int) -> None:
        """Put the used columns at `start`."""
        source, target = slice(self.start, self.end), slice(start, start + self.end - self.start)
        for buffer in (*self._keys, *self._values):
            buffer[: self.rows, :, target] = buffer[: self.rows, :, source].clone()
        self.start, self.end = target.start, target.stop

    def _resize(self, rows: int, columns: int) -> None:
        """Put the used columns at the beginning of buffers for so many rows and columns."""
        held, self._columns = self._roomy(rows, columns)
        used = slice(self.start, self.end)
        for buffers in (self._keys, self._values):
            for layer, old in enumerate(buffers):
                new = old.new_zeros((held, old.shape[1], self._columns, old.shape[3]))
                new[: self.rows, :, : used.stop - used.start] = old[: self.rows, :, used]
                buffers[layer] = new
        self.start, self.end = 0, used.stop - used.start


def copy_of(stored: Stored) -> Stored:
    """Return a copy that no longer shares memory with the window it came from."""
    return [(keys.clone(), values.clone()) for keys, values in stored]


def first_tokens(stored: Stored, tokens: int) -> Stored:
    """Return views of the first tokens of a row."""
    return [(keys[:, :, :tokens], values[:, :, :tokens]) for keys, values in stored]


def size_of(stored: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> int:
    """Return how many tokens are stored."""
    return stored[0][0].shape[2] if stored else 0
