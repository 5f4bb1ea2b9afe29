"""Errors of PyTorch and transformers as ours."""

from __future__ import annotations

import torch

from openllm.engines.library_errors import told
from openllm.errors import EngineError, OutOfMemoryError


def as_ours(error: BaseException) -> EngineError:
    """Return an error of a model that runs as one of ours."""
    if is_out_of_memory(error):
        return OutOfMemoryError(
            f"the model ran out of memory ({told(error)[:200]}); lower kv_cache_tokens or"
            " max_concurrency"
        )
    return EngineError(f"the model failed: {told(error)}")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it is for want of memory; of the processor's, PyTorch has no class for that."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and "allocate memory" in str(error)
