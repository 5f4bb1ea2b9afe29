"""OpenLLM: one interface to open language models, in your program or behind an API.

Public names are loaded on first use, so that importing the package costs nothing;
`__init__.pyi` gives their types.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from openllm._version import __version__

_PUBLIC = {
    "LLM": "openllm.llm.llm",
    "CompletionChunk": "openllm.llm.output",
    "GenerationOutput": "openllm.llm.output",
    "Message": "openllm.types",
    "Registry": "openllm.models.registry:REGISTRY",
    "SamplingParams": "openllm.types",
    "start": "openllm.bento.launch",
    "Runner": "openllm.llm.legacy",
}

_FAMILIES = (
    "Baichuan Bloom ChatGLM DollyV2 Falcon FlanT5 GPTNeoX Llama MPT Mistral Mixtral OPT Phi Qwen"
    " StableLM StarCoder Yi"
)
_OLDER_CLASSES = {"AutoLLM", "AutoVLLM", "AutoTFLLM", "AutoFlaxLLM"} | {
    prefix + name for name in _FAMILIES.split() for prefix in ("", "VLLM", "TF", "Flax")
}
"""Classes that `LLM` replaces; see `openllm.llm.legacy`."""

__all__ = [
    "LLM",
    "CompletionChunk",
    "GenerationOutput",
    "Message",
    "Registry",
    "SamplingParams",
    "__version__",
    "start",
]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        module, _, attribute = _PUBLIC[name].partition(":")
        return getattr(import_module(module), attribute or name)
    if name in _OLDER_CLASSES:
        return import_module("openllm.llm.legacy").model_class(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
