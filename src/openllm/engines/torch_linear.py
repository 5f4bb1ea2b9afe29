"""Linear layers on a CPU in bfloat16 with weights laid out for its matrix instructions once.

`torch.nn.functional.linear` lays them out again at every call, which for a few rows takes longer
than the product itself.
"""

from __future__ import annotations

import logging

import torch
from torch import nn

logger = logging.getLogger("openllm.engines.torch")


class PackedLinear(nn.Module):
    """A linear layer whose weight [out, in] is held in oneDNN's own layout."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features = linear.in_features
        self.out_features = linear.out_features
        self._packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), None)
        self.bias = linear.bias
        # Models ask their layers' weights for dtype and device; the values are in `_packed`.
        self.weight = nn.Parameter(linear.weight.detach()[:0].clone(), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias, "none", [], "")


def pack_linears(model: nn.Module) -> int:
    """Replace the linear layers of a bfloat16 model on a CPU; return how many were.

    Layers whose weight other modules read too (tied embeddings) keep the original beside it.
    """
    packed = 0
    for parent in model.modules():
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear and _fits(child):
                setattr(parent, name, PackedLinear(child))
                packed += 1
    return packed


def can_pack(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether this build of PyTorch has the operators, and they compute what `linear` does."""
    if device.type != "cpu" or dtype != torch.bfloat16:
        return False
    try:
        layer = nn.Linear(64, 48, dtype=dtype)
        x = torch.randn(3, 64, dtype=dtype)
        with torch.inference_mode():
            return bool(torch.allclose(PackedLinear(layer)(x), layer(x), atol=1e-2))
    except (AttributeError, RuntimeError) as error:
        logger.info("linear layers are not packed: %s", error)
        return False


def _fits(layer: nn.Linear) -> bool:
    return bool(layer.weight.dtype == torch.bfloat16 and layer.weight.device.type == "cpu")
