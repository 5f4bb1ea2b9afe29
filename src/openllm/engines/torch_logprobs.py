"""Logprobs of a step: what the model itself gave the tokens, before anything was changed."""

from __future__ import annotations

from typing import NamedTuple

import torch

SLACK = 16  # The window is a little wider, to show equals of the last one wanted.


class RowLogprobs(NamedTuple):
    """Natural-log probabilities of one step by the model's own distribution, in float32.

    Attributes:
        chosen: Of the token chosen.
        top_ids: The likeliest tokens, likeliest first, of equals the lowest id first; as many as
            `logprobs` asked for, the chosen one among them only if it is that likely.
        top: Their logprobs.
    """

    chosen: float
    top_ids: list[int]
    top: list[float]


def logprobs(
    logits: torch.Tensor, token_ids: list[int], counts: list[int], scratch: torch.Tensor
) -> list[RowLogprobs]:
    """Return the logprobs of each row's token and of its likeliest ones.

    Args:
        logits: float32 [n, vocab], not changed.
        token_ids: The token chosen, a row each.
        counts: How many of the likeliest are wanted, a row each; at most `vocab` are given.
        scratch: float32 [n, vocab], overwritten.
    """
    largest = logits.amax(-1, keepdim=True)
    norm = largest - torch.softmax(logits, -1, out=scratch).amax(-1, keepdim=True).log()
    ids = torch.tensor(token_ids, device=logits.device).unsqueeze(1)
    chosen = (logits.gather(1, ids) - norm).squeeze(1).tolist()
    top_ids, values = _likeliest(logits, min(max(counts), logits.shape[1]))
    best_ids, best = top_ids.tolist(), (values - norm).tolist()
    return [
        RowLogprobs(chosen[row], best_ids[row][:count], best[row][:count])
        for row, count in enumerate(counts)
    ]


def _likeliest(logits: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and logits of the `count` likeliest, of equals the lowest ids first."""
    width = min(count + SLACK, logits.shape[1])
    values, ids = logits.topk(width)
    cut = width < logits.shape[1] and count > 0
    if cut and bool((values[:, count - 1] == values[:, -1]).any()):
        # Equals of the last one wanted lie beyond the window.
        values, ids = logits.sort(dim=-1, descending=True, stable=True)
    else:
        ids, order = ids.sort(-1)
        values, order = values.gather(1, order).sort(dim=-1, descending=True, stable=True)
        ids = ids.gather(1, order)
    return ids[:, :count], values[:, :count]
