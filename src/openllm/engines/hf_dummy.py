"""A model with weights drawn at random: for trials of speed and memory without its files."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any

import torch

SEED = 0


def random_bytes(make: Callable[[], Any]) -> int:
    """Return the bytes that what `make` builds takes; none of them is taken here."""
    with torch.device("meta"):
        model = make()
    return sum(
        tensor.numel() * tensor.element_size()
        for tensor in chain(model.parameters(), model.buffers())
    )


def random_model(make: Callable[[], Any], device: torch.device) -> Any:
    """Return what `make` builds, on `device`: the same weights every time, as before training."""
    cards = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cards), torch.device(device):
        torch.manual_seed(SEED)
        return make()
