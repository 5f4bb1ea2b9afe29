"""Attention of one new token a row, with the query heads of a group as rows of one matrix.

With grouped keys, PyTorch's own kernels read the same keys once for each query head; folded, they
read them once for each group. On a CPU that makes a batched step several times faster.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

NAME = "openllm_folded"


def folded_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend as transformers' "sdpa" does; query [rows, heads, new, size], output transposed."""
    rows, heads, new, size = query.shape
    groups = key.shape[1]
    if new != 1 or not _plain(attention_mask, kwargs) or heads % groups:
        attended: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
        return attended
    folded = query.reshape(rows, groups, heads // groups, size)
    output = scaled_dot_product_attention(
        folded, key, value, attn_mask=attention_mask, scale=scaling
    )
    return output.reshape(rows, 1, heads, value.shape[-1]), None


def _plain(mask: torch.Tensor | None, kwargs: dict[str, Any]) -> bool:
    """Whether the mask is the same for all heads and nothing but scaling is asked for."""
    same = mask is None or mask.shape[1] == 1
    return same and kwargs.get("position_bias") is None and kwargs.get("cache") is None


def additive_mask(*args: Any, dtype: torch.dtype = torch.float32, **kwargs: Any) -> Any:
    """Make the mask of "sdpa" once as what is added to the scores, not as booleans a layer."""
    mask = sdpa_mask(*args, **kwargs)
    if mask is None or mask.dtype != torch.bool:
        return mask
    lowest = torch.finfo(dtype).min
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, lowest)


def use_folded_attention(model: Any) -> None:
    """Let a model that attends through transformers' interface with "sdpa" use the folded one."""
    if getattr(model.config, "_attn_implementation", None) != "sdpa":
        return
    AttentionInterface.register(NAME, folded_attention)
    AttentionMaskInterface.register(NAME, additive_mask)
    try:
        model.set_attn_implementation(NAME)
    except (ValueError, AttributeError):
        model.set_attn_implementation("sdpa")
