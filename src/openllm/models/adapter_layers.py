"""Whether an adapter is for the model it is given to, by the headers of both.

An engine may pass over matrices for a layer that its model does not have. Judged are only models
whose tensors are known to be called as their layers are, whatever comes before the layer's number;
of all others the engine tells when it loads them, if it does.
"""

from __future__ import annotations

from openllm.errors import ConfigurationError
from openllm.models.adapters import layer_sizes
from openllm.models.folder_files import FolderFiles
from openllm.models.folder_layers import LAYER, is_judged
from openllm.models.folder_weights import read_weights
from openllm.models.gguf_window import shown
from openllm.types import Adapter

Shape = tuple[int, ...]
_EXPERTS = ("expert", "moe")
"""Models with these have had layers renamed by transformers, so that names tell less."""


def check_layers(adapter: Adapter, path: str) -> None:
    """Check that the model in the folder at `path` has the layers that the adapter is for.

    Raises:
        ConfigurationError: It lacks one, or one has another size; names the first.
        ModelFileError: A file of the model or the adapter is damaged.
    """
    files = FolderFiles(path)
    if adapter.format != "safetensors" or not is_judged(files.object("config.json") or {}):
        return
    tensors = read_weights(files).tensors
    there = {_place(name.rpartition(".")[0]): shape for name, shape in _weights_last(tensors)}
    parts = {part for _, part in there}
    complete = not any(word in name for name in tensors for word in _EXPERTS)
    for layer, sizes in layer_sizes(adapter.path).items():
        number, part = place = _place(layer)
        if place in there:
            _check_sizes(adapter, layer, sizes, there[place])
        elif number and (complete or part in parts):
            raise _refused(adapter, f"is for a layer {shown(layer)}, which the model does not have")


def _weights_last(tensors: dict[str, Shape]) -> list[tuple[str, Shape]]:
    """Return what tells a layer's sizes behind what does not, such as its bias."""
    return sorted(tensors.items(), key=lambda tensor: tensor[0].endswith(".weight"))


def _place(name: str) -> tuple[str, str]:
    """Return the number of the layer, "" where it has none, and the name within it."""
    found = LAYER.match(name)
    return (found[2], name[found.end() :]) if found else ("", name)


def _check_sizes(adapter: Adapter, layer: str, sizes: tuple[int, int], shape: Shape) -> None:
    """Compare what the matrices take and give; GPT-2 stores its weights the other way round."""
    if len(shape) == 2 and sorted(sizes) != sorted(shape):
        raise _refused(
            adapter,
            f"does not fit: its matrices for {shown(layer)} go from {sizes[0]} to {sizes[1]}"
            f" values, and the model's weight is {shape[0]} x {shape[1]}",
        )


def _refused(adapter: Adapter, problem: str) -> ConfigurationError:
    return ConfigurationError(
        f"the adapter {adapter.label!r} {problem}; it was made for another model", param="lora"
    )
