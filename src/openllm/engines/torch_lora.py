"""LoRA adapters on a transformers model: each row of a batch has its own, or none.

The weights of the model stay as they are; what an adapter adds is computed beside each of its
layers, x A B scaled, for the rows that chose it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from openllm.errors import EngineStartError
from openllm.types import Adapter

FILE = "adapter_model.safetensors"
TENSOR = "base_model.model.{layer}.lora_{part}.weight"

Matrices = tuple[torch.Tensor, torch.Tensor]
"""[in, rank] and, scaled, [rank, out]."""


class Lora:
    """The adapters of one model, hooked into its layers."""

    def __init__(self, model: Any, adapters: Sequence[Adapter]) -> None:
        """Load them all; raises `EngineStartError` for one that does not fit the model."""
        self._layers: dict[str, dict[str, Matrices]] = {}
        self._device = model.device
        self._names = frozenset(adapter.name for adapter in adapters)
        self._rows = 0
        self._groups: list[tuple[str, torch.Tensor | None]] = []
        for adapter in adapters:
            self._load(model, adapter)
        for layer, matrices in self._layers.items():
            model.get_submodule(layer).register_forward_hook(partial(self._add, matrices))

    @contextmanager
    def on(self, names: Sequence[str]) -> Iterator[None]:
        """Run the model meanwhile with these adapters, of which `names[i]` is row i's."""
        self._rows = len(names)
        try:
            for name in self._names.intersection(names):
                rows = [row for row, each in enumerate(names) if each == name]
                every = len(rows) == len(names)
                chosen = None if every else torch.tensor(rows, device=self._device)
                self._groups.append((name, chosen))
            yield
        finally:
            self._groups.clear()

    def _load(self, model: Any, adapter: Adapter) -> None:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(Path(adapter.path, FILE)), "pt") as file:
                for layer, scale in adapter.scales.items():
                    module = _layer(model, layer, adapter)
                    down, up = (file.get_tensor(TENSOR.format(layer=layer, part=p)) for p in "AB")
                    _check_sizes(module, layer, adapter, down.shape[1], up.shape[0])
                    like = module.weight
                    self._layers.setdefault(layer, {})[adapter.name] = (
                        down.t().to(like.device, like.dtype).contiguous(),
                        (up.t().float() * scale).to(like.device, like.dtype).contiguous(),
                    )
        except (OSError, SafetensorError) as error:
            raise EngineStartError(f"adapter {adapter.label} cannot be read: {error}") from error

    def _add(
        self,
        matrices: dict[str, Matrices],
        _module: torch.nn.Module,
        inputs: tuple[torch.Tensor, ...],
        output: torch.Tensor,
    ) -> torch.Tensor:
        x, out = inputs[0], output
        for name, rows in self._groups:
            if name not in matrices:
                continue
            down, up = matrices[name]
            if rows is None:
                out = out + x @ down @ up
                continue
            # Some layers get the tokens of all rows as one list.
            rows = rows.to(x.device)  # Another, where the model is on several cards.
            chosen = x.reshape(self._rows, -1, x.shape[-1])[rows]
            by_row = out.reshape(self._rows, -1, out.shape[-1])
            out = by_row.index_add(0, rows, chosen @ down @ up).view(output.shape)
        return out


def _layer(model: Any, layer: str, adapter: Adapter) -> Any:
    try:
        return model.get_submodule(layer)
    except AttributeError:
        raise EngineStartError(
            f"adapter {adapter.label} is for a layer {layer!r}, which the model has not; it was"
            " made for another model, or for experts, which the torch engine does not adapt"
        ) from None


def _check_sizes(module: Any, layer: str, adapter: Adapter, takes: int, gives: int) -> None:
    """Refuse matrices that do not go with a linear layer (GPT-2's is called a convolution)."""
    sizes = (
        getattr(module, "in_features", getattr(module, "nx", None)),
        getattr(module, "out_features", getattr(module, "nf", None)),
    )
    if sizes != (takes, gives):
        raise EngineStartError(
            f"adapter {adapter.label} does not fit: its matrices for {layer} go from {takes} to"
            f" {gives} values, and the layer from {sizes[0]} to {sizes[1]}; it was made for another"
            " model"
        )
