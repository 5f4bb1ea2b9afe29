"""Arguments of transformers' `from_pretrained` in our own terms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_RENAMED = {
    "device_map": "device",
    "local_files_only": "offline",
    "token": "hub_token",
    "torch_dtype": "dtype",
}

_ANYWAY: dict[str, tuple[object, ...]] = {
    "device_map": ("auto",),
    "local_files_only": (False,),
    "low_cpu_mem_usage": (True, False),
    "token": (True,),
    "use_fast": (True,),
    "use_safetensors": (True,),
}
"""Values that ask for what happens anyway."""


def own_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options for `openllm.LLM`, which refuses those that have no meaning here."""
    own: dict[str, Any] = {}
    for name, value in options.items():
        if value is None or (name in _ANYWAY and value in _ANYWAY[name]):
            continue
        own_name = _RENAMED.get(name, name)
        if own_name in ("dtype", "device"):  # Objects of torch go by their names.
            value = str(value).removeprefix("torch.")
        own[own_name] = value
    return own
