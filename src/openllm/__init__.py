"""OpenLLM: one interface to open language models, in your program or behind an API.

Public names are loaded on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from openllm._version import __version__

_PUBLIC = {
    "CompletionChunk": "openllm.types",
    "Message": "openllm.types",
    "SamplingParams": "openllm.types",
    "start": "openllm.bento.launch",
}

__all__ = ["CompletionChunk", "Message", "SamplingParams", "__version__", "start"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return __all__
