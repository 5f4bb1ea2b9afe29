"""What is known of an engine before it is imported, and that of our own."""

from __future__ import annotations

from typing import NamedTuple

from openllm.config.model import LoadOptions
from openllm.types import ModelFormat


class EngineKind(NamedTuple):
    """One row of the table of engines.

    Attributes:
        target: Where its class is, as "module:Class"; it is an `openllm.engines.base.Engine`.
        formats: The formats of models it loads.
        needs: Top-level modules it imports; none is imported to find out whether they are there.
        install: What to install when one is missing.
        options: The fields of `LoadOptions` that it heeds; another that the user sets for it is
            refused. One that does not say counts as heeding all, so that nothing is refused.
            `backend` is not the engine's affair.
    """

    target: str
    formats: tuple[ModelFormat, ...]
    needs: tuple[str, ...] = ()
    install: str = "open-llm-server"
    options: tuple[str, ...] = tuple(LoadOptions.model_fields)


_EVERYWHERE = ("context_length", "max_concurrency")
_OF_DEVICES = (*_EVERYWHERE, "device", "threads")
_OF_FOLDERS = (
    *_OF_DEVICES,
    "dtype",
    "kv_cache_tokens",
    "load_format",
    "lora",
    "prefill_chunk",
    "tokenizer",
    "tokenizer_revision",
    "trust_remote_code",
)

BUILT_IN = {
    "llamacpp": EngineKind(
        "openllm.engines.llamacpp_engine:LlamaCppEngine",
        ("gguf",),
        ("xllamacpp",),
        options=(*_OF_DEVICES, "embeddings", "gpu_layers", "lora"),
    ),
    "vllm": EngineKind(
        "openllm.engines.vllm_engine:VLLMEngine",
        ("safetensors",),
        ("vllm",),
        "vllm",
        (*_OF_FOLDERS, "gpu_memory_utilization", "enforce_eager", "engine_arg"),
    ),
    "torch": EngineKind(
        "openllm.engines.torch_engine:TorchEngine",
        ("safetensors",),
        ("torch", "transformers", "llguidance"),
        "open-llm-server[torch]",
        (*_OF_FOLDERS, "embeddings", "tokenizer_mode"),
    ),
    "scripted": EngineKind(
        "openllm.engines.scripted_engine:ScriptedEngine",
        ("script",),
        options=(*_EVERYWHERE, "embeddings"),
    ),
}
