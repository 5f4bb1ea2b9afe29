"""Draws from logits: from whole rows, and from rows cut to their likeliest tokens.

A draw inverts the distribution function over the tokens in the order of their ids. That order
belongs to the vocabulary, so neither the other rows of a batch, nor the way by which a row was
cut, nor noise in the last bit of two nearly equal logits changes which token a number draws.

A row is cut by a border: the smallest logit kept, and how many of its equals, of which the lowest
ids are. Mostly a window of the row's largest logits holds all that is kept, and nothing else of
the row is looked at. Where it does not, the logits of that row are sorted, without their ids.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

WINDOW = 80
MAX_TOP_K = 64  # For which a window is tried; it is wider to show equals of the last one kept.
DIRECT = 4096  # Widths up to this are summed up entry by entry, wider ones by blocks first.
BLOCK = 128
CHUNK = 1 << 19  # Logits sorted at a time: more leave the processor's caches.
REACHED = 1 - 1e-6  # float32 sums over a vocabulary are right to about this share.
NO_FLOOR = torch.finfo(torch.float32).min  # Below every finite logit, above -inf.


class Cuts(NamedTuple):
    """How rows are cut; one entry a row, neutral values cut nothing.

    Attributes:
        top_k: int64 [n, 1], the size of the vocabulary if all.
        top_p: float64 [n, 1], infinite if all.
        floor: float32 [n, 1], smallest logit kept as seen from the row's largest: log(min_p).
        temperature: float32 [n, 1].
        summed: int64 [m], rows whose `top_p` is a share of the whole row: they have no `top_k`.
    """

    top_k: torch.Tensor
    top_p: torch.Tensor
    floor: torch.Tensor
    temperature: torch.Tensor
    summed: torch.Tensor


def draw(
    logits: torch.Tensor,
    temperature: torch.Tensor,
    floor: torch.Tensor | None,
    uniforms: torch.Tensor,
    scratch: torch.Tensor,
) -> torch.Tensor:
    """Draw one token id a row from the whole row, or from what `min_p` leaves of it.

    Args:
        logits: float32 [n, vocab], changed. A row without a finite maximum draws any id.
        temperature: float32 [n, 1].
        floor: As in `Cuts`; None where no row has one.
        uniforms: float64 [n] in [0, 1).
        scratch: float32 [n, vocab], overwritten.

    Returns:
        int64 [n].
    """
    scaled = logits.sub_(logits.amax(-1, keepdim=True))
    if floor is not None:
        scaled.masked_fill_(scaled < floor, -torch.inf)
    return _draw(scaled.div_(temperature), uniforms, scratch)


def fits_window(top_k: int, vocab: int) -> bool:
    """Whether the window may hold all that is kept; `top_k` is `vocab` if all may be."""
    return vocab > WINDOW and (top_k <= MAX_TOP_K or top_k == vocab)


def draw_cut(
    logits: torch.Tensor,
    cuts: Cuts,
    uniforms: torch.Tensor,
    scratch: torch.Tensor,
    *,
    window: bool,
) -> torch.Tensor:
    """Draw one token id a row from the likeliest tokens: `top_k`, then `top_p`, then `min_p`.

    All three judge the logits at temperature 1; the temperature is applied to what they leave.

    Args:
        logits: float32 [n, vocab], not changed. A row without a finite maximum draws any id.
        cuts: Of the same rows.
        uniforms: float64 [n] in [0, 1).
        scratch: float32 [n, vocab], overwritten.
        window: Whether to try a window first; see `fits_window`.

    Returns:
        int64 [n].
    """
    part = _Part(*cuts[:4], _totals(logits, cuts, scratch), uniforms)
    rest = torch.arange(len(logits), device=logits.device)
    drawn = torch.empty_like(rest)
    if window:
        drawn, settled = _draw_window(logits, part)
        rest = rest[~settled]
    if len(rest):
        for rows in rest.split(max(1, CHUNK // logits.shape[1])):
            chunk = _Part(*(each[rows] for each in part))
            drawn[rows] = _draw_sorted(logits[rows], chunk, scratch[: len(rows)])
    return drawn


class _Part(NamedTuple):
    """Rows, by all but their logits: their `Cuts`, their sums and their numbers."""

    top_k: torch.Tensor
    top_p: torch.Tensor
    floor: torch.Tensor
    temperature: torch.Tensor
    totals: torch.Tensor
    uniforms: torch.Tensor


def _totals(logits: torch.Tensor, cuts: Cuts, scratch: torch.Tensor) -> torch.Tensor:
    """Sum exp(logit - largest), of which `top_p` is a share where there is no `top_k`.

    Returns:
        float64 [n, 1]; 1 for rows that do not need it.
    """
    totals = torch.ones_like(cuts.top_p)
    count = len(cuts.summed)
    if count:
        part = logits if count == len(logits) else logits[cuts.summed]
        weights = torch.softmax(part, -1, out=scratch[:count])
        totals[cuts.summed] = 1 / weights.amax(-1, keepdim=True).double()
    return totals


def _draw_window(logits: torch.Tensor, part: _Part) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw from the largest logits alone; return ids, and whether nothing else was kept."""
    values, ids = logits.topk(WINDOW)
    border = _border(-values, part, logits.shape[1])
    ids, order = ids.sort(-1)
    scaled = _cut(values.gather(1, order), values[:, :1], border, part.temperature)
    at = _draw(scaled, part.uniforms, torch.empty_like(scaled))
    settled = (border.logit > values[:, -1:]) | ~values[:, :1].isfinite()
    return ids.gather(1, at.unsqueeze(1)).squeeze(1), settled.squeeze(1)


def _draw_sorted(logits: torch.Tensor, part: _Part, scratch: torch.Tensor) -> torch.Tensor:
    """Draw from all that is kept, however much it is."""
    torch.neg(logits, out=scratch)
    if scratch.device.type == "cpu":
        scratch.numpy().sort(axis=-1)  # Vector code: 30 times as fast as torch, and in place.
    else:
        scratch = scratch.sort(-1).values
    border = _border(scratch, part, logits.shape[1])
    largest = -scratch[:, :1]
    return _draw(_cut(logits, largest, border, part.temperature), part.uniforms, scratch)


class _Border(NamedTuple):
    """Where rows are cut.

    Attributes:
        logit: float32 [n, 1], the smallest kept.
        equals: int64 [n, 1], how many of its equals are kept, itself among them.
        splits: Whether some row has more equals than are kept.
    """

    logit: torch.Tensor
    equals: torch.Tensor
    splits: bool


def _border(negated: torch.Tensor, part: _Part, vocab: int) -> _Border:
    """Find where rows are cut, given their largest logits: negated, so in ascending order."""
    floored = torch.searchsorted(negated, negated[:, :1] - part.floor, right=True)
    weights = negated.neg().softmax(-1)
    reached = weights.cumsum(-1)
    last = part.top_k.clamp(max=negated.shape[1]) - 1
    totals = part.totals * weights[:, :1]
    among = torch.where(part.top_k < vocab, reached.gather(1, last), totals)
    kept = torch.searchsorted(reached, (part.top_p * among * REACHED).float()) + 1
    kept = kept.minimum(part.top_k).minimum(floored).clamp(1, negated.shape[1])
    border = negated.gather(1, kept - 1)
    above = torch.searchsorted(negated, border)
    level = torch.searchsorted(negated, border, right=True)
    return _Border(-border, kept - above, bool((level > kept).any()))


def _cut(
    logits: torch.Tensor, largest: torch.Tensor, border: _Border, temperature: torch.Tensor
) -> torch.Tensor:
    """Return logits at the temperature, those cut as -inf; tokens are in the order of their ids."""
    dropped = logits < border.logit
    if border.splits:
        level = logits == border.logit
        dropped |= level & (level.cumsum(-1, dtype=torch.int32) > border.equals)
    return logits.sub_(largest).div_(temperature).masked_fill_(dropped, -torch.inf)


def _draw(scaled: torch.Tensor, uniforms: torch.Tensor, scratch: torch.Tensor) -> torch.Tensor:
    # Softmax works row by row; exp's last bit depends on where in the batch an entry stands.
    return invert(torch.softmax(scaled, -1, out=scratch), uniforms)


def invert(weights: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Return, for each row, the first position at which the sum so far exceeds its share.

    Args:
        weights: [n, width], not negative; a weight of 0 is never drawn.
        uniforms: float64 [n] in [0, 1), the shares of the rows' sums.
    """
    width = weights.shape[1]
    if width <= DIRECT:
        return _find(weights, uniforms)[0]
    whole = width - width % BLOCK
    sums = weights[:, :whole].unflatten(1, (-1, BLOCK)).sum(-1)
    if whole < width:
        sums = torch.cat([sums, weights[:, whole:].sum(-1, keepdim=True)], -1)
    block, rest = _find(sums, uniforms)
    at = block.unsqueeze(1) * BLOCK + torch.arange(BLOCK, device=weights.device)
    within = weights.gather(1, at.clamp(max=width - 1)).masked_fill_(at >= width, 0)
    return block * BLOCK + _find(within, rest)[0]


def _find(weights: torch.Tensor, shares: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the positions [n] and how far into its weight each share fell (float64, [0, 1))."""
    reached = weights.cumsum(-1, dtype=torch.float64)
    total = reached[:, -1:]
    goal = torch.minimum(shares.unsqueeze(1) * total, total.nextafter(torch.zeros_like(total)))
    at = torch.searchsorted(reached, goal, right=True).clamp_(max=weights.shape[1] - 1)
    weight = weights.gather(1, at).double()
    rest = 1 - (reached.gather(1, at) - goal) / weight
    return at.squeeze(1), rest.clamp_(0, 1 - 2**-53).squeeze(1)
