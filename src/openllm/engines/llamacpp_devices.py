"""Where llama.cpp computes: on the processor, on all cards, or on one of them."""

from __future__ import annotations

import json
from typing import Any

from openllm.config.model import shown_device
from openllm.errors import ConfigurationError


def place(params: Any, device: str) -> None:
    """Set the parameters for `device`: cpu, cuda, cuda:N or mps.

    Raises:
        ConfigurationError: The build of llama.cpp that is installed sees no such device.
    """
    import xllamacpp

    if device == "cpu":
        params.n_gpu_layers = 0
        return
    cards = cards_seen()
    number = int(device.partition(":")[2] or 0)
    if number >= len(cards):
        raise ConfigurationError(
            f"device {shown_device(device)}: the installed llama.cpp sees"
            f" {f'the cards {cards}' if cards else 'no GPU'}; give cpu, or leave it out, or install"
            " an xllamacpp built for your cards",
            param="device",
        )
    if ":" in device:
        params.main_gpu = number
        params.split_mode = xllamacpp.llama_split_mode.LLAMA_SPLIT_MODE_NONE


def cards_seen() -> list[str]:
    """Return the names of the GPUs that the installed llama.cpp sees."""
    import xllamacpp

    kinds = xllamacpp.ggml_backend_dev_type
    return [
        one["name"]
        for one in xllamacpp.get_device_info()
        if one["type"] in (kinds.GGML_BACKEND_DEVICE_TYPE_GPU, kinds.GGML_BACKEND_DEVICE_TYPE_IGPU)
    ]


def main() -> None:
    """Print them as JSON, for a process that does not want llama.cpp in itself."""
    print(json.dumps(cards_seen()))
