"""Choosing the next token of every row of a batch.

A row's logits go, in this order, through `logit_bias`; `repetition_penalty`; `presence_penalty` and
`frequency_penalty`, which like it count prompt and output; the grammar; `top_k`; `top_p`; `min_p`;
and `temperature`. So the scripted and llama.cpp's engines do, save that llama.cpp asks the grammar
last. The largest logit is taken, the lowest id among equals, if `temperature` is at most 1e-5,
`top_p` less than 1e-8, or `top_k` 1.

Rows are chosen together where they need the same work, and only those that need it pay for it:
greedy rows never leave the model's dtype. What the rows ask for is kept as tensors until the
batch's rows change.

It knows nothing of text, of when a sequence ends, or of ranges: parameters were checked before.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from operator import is_
from typing import NamedTuple

import torch

from openllm.engines.torch_grammar import apply_masks
from openllm.engines.torch_logprobs import RowLogprobs, logprobs
from openllm.engines.torch_penalties import Biases, Penalised, apply_penalties
from openllm.engines.torch_sampling_state import SequenceSampling
from openllm.engines.torch_truncation import NO_FLOOR, Cuts, draw, draw_cut, fits_window
from openllm.types import SamplingParams

__all__ = ["RowLogprobs", "Sampled", "Sampler", "SequenceSampling"]


class Sampled(NamedTuple):
    """One step's tokens, a row each.

    Attributes:
        token_ids: -1 where no token could be chosen; `SequenceSampling.failure` says why.
        logprobs: None where none were asked for, or where no token could be chosen.
    """

    token_ids: list[int]
    logprobs: list[RowLogprobs | None]


class Sampler:
    """Chooses tokens for the batches of one engine."""

    def __init__(self, vocab_size: int, device: torch.device) -> None:
        """Prepare for logits of `vocab_size` columns on `device`; on MPS they are moved to CPU."""
        self._vocab_size = vocab_size
        self._moves = device.type == "mps"
        self._device = torch.device("cpu") if self._moves else device
        self._plan = _Plan((), vocab_size, self._device)
        self._workspace = _Workspace(vocab_size, self._device)

    def sample(self, logits: torch.Tensor, rows: Sequence[SequenceSampling]) -> Sampled:
        """Choose a token for every row; a row that cannot have one leaves the others as they are.

        Args:
            logits: [rows, vocab_size], any float dtype; not changed.
            rows: The batch now; rows may have joined, left or moved since the last call.
        """
        if not rows:
            return Sampled([], [])
        if self._moves:
            logits = logits.to("cpu", torch.float32)
        plan = self._plan
        if len(rows) != len(plan.rows) or not all(map(is_, rows, plan.rows)):
            plan = self._plan = _Plan(rows, self._vocab_size, self._device)
        with torch.inference_mode():
            token_ids = plan.choose(logits, self._workspace)
            return Sampled(token_ids, _report(logits, rows, token_ids, self._workspace))


class _Workspace:
    """Two float32 matrices that every step uses again.

    New ones of their size are mapped and unmapped by the operating system each time, which takes
    longer than what is computed in them.
    """

    def __init__(self, vocab: int, device: torch.device) -> None:
        self._tensors = torch.empty((2, 0, vocab), dtype=torch.float32, device=device)

    def take(self, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the two with as many rows, contiguous, of any content."""
        if self._tensors.shape[1] < rows:
            self._tensors = self._tensors.new_empty((2, rows, self._tensors.shape[2]))
        return self._tensors[0, :rows], self._tensors[1, :rows]


class _Group:
    """Rows of a batch, in order; `index` is None if they are all of them."""

    def __init__(self, rows: list[int], of: int, device: torch.device) -> None:
        self.rows = rows
        self._index = None if len(rows) == of else torch.tensor(rows, device=device)

    def take(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the group's rows: the tensor itself or a copy."""
        return logits if self._index is None else logits.index_select(0, self._index)


class _Plan:
    """Who takes which way, and what they ask for, for as long as the rows are the same.

    `plain` rows are greedy over the model's own logits. All others are `worked`, in float32, where
    they are numbered anew: `greedy`, `free` (drawn from the whole row), `cut` (by a window of the
    largest logits) and `sorted`.
    """

    def __init__(self, rows: Sequence[SequenceSampling], vocab: int, device: torch.device) -> None:
        self.rows = tuple(rows)
        self._vocab = vocab
        self._device = device
        plain = [at for at, row in enumerate(rows) if row.greedy and not _shaped(row)]
        worked = sorted(set(range(len(rows))) - set(plain))
        self._plain = _Group(plain, len(rows), device)
        self._worked = _Group(worked, len(rows), device)
        self._sampled = [rows[at] for at in worked]
        ways: dict[str, list[int]] = {"greedy": [], "free": [], "cut": [], "sorted": []}
        for at, row in enumerate(self._sampled):
            ways[_way(row, vocab)].append(at)
        self._greedy, self._free, self._cut, self._sorted = (
            _Group(group, len(worked), device) for group in ways.values()
        )
        self._prepare_shapes()
        self._prepare_draws()

    def _prepare_shapes(self) -> None:
        rows = list(enumerate(self._sampled))
        biased = [(at, row.params.logit_bias) for at, row in rows if row.params.logit_bias]
        self._biases = Biases(biased, self._vocab, self._device) if biased else None
        self._penalised = [
            Penalised(at, row.params, row.counts) for at, row in rows if row.counts is not None
        ]
        self._grammars = [(at, row.grammar) for at, row in rows if row.grammar is not None]

    def _prepare_draws(self) -> None:
        free = [self._sampled[at].params for at in self._free.rows]
        self._temperature = self._column([one.temperature for one in free])
        floored = any(one.min_p > 0 for one in free)
        self._floor = self._column(list(map(_floor, free))) if floored else None
        self._cuts = {group: self._make_cuts(group) for group in (self._cut, self._sorted)}

    def _make_cuts(self, group: _Group) -> Cuts:
        params = [self._sampled[at].params for at in group.rows]
        top_k = [_top_k(one, self._vocab) for one in params]
        top_p = [one.top_p if one.top_p < 1 else math.inf for one in params]
        whole = [at for at, k in enumerate(top_k) if k == self._vocab and top_p[at] < 1]
        return Cuts(
            torch.tensor(top_k, dtype=torch.int64, device=self._device).unsqueeze(1),
            torch.tensor(top_p, dtype=torch.float64, device=self._device).unsqueeze(1),
            self._column([_floor(one) for one in params]),
            self._column([one.temperature for one in params]),
            torch.tensor(whole, dtype=torch.int64, device=self._device),
        )

    def _column(self, values: list[float]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float32, device=self._device).unsqueeze(1)

    def choose(self, logits: torch.Tensor, workspace: _Workspace) -> list[int]:
        """Return a token id for every row, -1 for those without a finite largest logit."""
        chosen = []
        if self._plain.rows:
            chosen.append(_largest(self._plain.take(logits)))
        order = list(self._plain.rows)
        if self._worked.rows:
            work, scratch = workspace.take(len(self._worked.rows))
            self._shape(work.copy_(self._worked.take(logits)))
            for group, ids in self._choose_worked(work, scratch):
                chosen.append(ids)
                order += [self._worked.rows[at] for at in group.rows]
        token_ids = [-1] * len(order)
        for at, token_id in zip(order, torch.cat(chosen).tolist(), strict=True):
            token_ids[at] = token_id
        return token_ids

    def _shape(self, work: torch.Tensor) -> None:
        """Apply biases, penalties and grammars to the worked rows."""
        if self._biases is not None:
            self._biases.apply(work)
        if self._penalised:
            apply_penalties(work, self._penalised)
        if self._grammars:
            apply_masks(work, self._grammars)

    def _choose_worked(
        self, work: torch.Tensor, scratch: torch.Tensor
    ) -> Iterator[tuple[_Group, torch.Tensor]]:
        if self._greedy.rows:
            yield self._greedy, _largest(self._greedy.take(work))
        # Those that draw change what they are given: a group of its own, or all there is.
        for group, cuts in self._cuts.items():
            if group.rows:
                part, space = group.take(work), scratch[: len(group.rows)]
                largest = part.amax(-1)
                ids = draw_cut(part, cuts, self._uniforms(group), space, window=group is self._cut)
                yield group, _valid(ids, largest)
        if self._free.rows:
            part, space = self._free.take(work), scratch[: len(self._free.rows)]
            largest = part.amax(-1)
            ids = draw(part, self._temperature, self._floor, self._uniforms(self._free), space)
            yield self._free, _valid(ids, largest)

    def _uniforms(self, group: _Group) -> torch.Tensor:
        drawn = [self._sampled[at].uniform() for at in group.rows]
        return torch.tensor(drawn, dtype=torch.float64, device=self._device)


def _shaped(row: SequenceSampling) -> bool:
    return bool(row.params.logit_bias) or row.counts is not None or row.grammar is not None


def _way(row: SequenceSampling, vocab: int) -> str:
    if row.greedy:
        return "greedy"
    top_k = _top_k(row.params, vocab)
    if row.params.top_p >= 1 and top_k == vocab:
        return "free"
    return "cut" if fits_window(top_k, vocab) else "sorted"


def _top_k(params: SamplingParams, vocab: int) -> int:
    return min(params.top_k, vocab) if params.top_k > 0 else vocab


def _floor(params: SamplingParams) -> float:
    return math.log(params.min_p) if params.min_p > 0 else NO_FLOOR


def _largest(logits: torch.Tensor) -> torch.Tensor:
    # Over bfloat16 on a CPU, max takes a fifth of argmax's time; both find the first of equals.
    values, ids = logits.max(-1)
    return _valid(ids, values)


def _valid(ids: torch.Tensor, largest: torch.Tensor) -> torch.Tensor:
    """Return -1 for rows that hold NaN, an infinite logit, or no token at all."""
    return ids.masked_fill(~largest.isfinite(), -1)


def _report(
    logits: torch.Tensor,
    rows: Sequence[SequenceSampling],
    token_ids: list[int],
    workspace: _Workspace,
) -> list[RowLogprobs | None]:
    found: list[RowLogprobs | None] = [None] * len(rows)
    counts = {
        at: row.params.logprobs
        for at, row in enumerate(rows)
        if row.params.logprobs is not None and token_ids[at] >= 0
    }
    if counts:
        part, scratch = workspace.take(len(counts))
        part.copy_(_Group(list(counts), len(rows), logits.device).take(logits))
        chosen = [token_ids[at] for at in counts]
        made = logprobs(part, chosen, list(counts.values()), scratch)
        for at, each in zip(counts, made, strict=True):
            found[at] = each
    return found
