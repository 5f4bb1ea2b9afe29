"""What vLLM raises, in our terms."""

from __future__ import annotations

import re

from openllm.errors import (
    ConfigurationError,
    EngineCrashedError,
    EngineError,
    EngineStartError,
    InvalidRequestError,
    OpenLLMError,
    OutOfMemoryError,
)
from openllm.types import LocalModel

CRASHED = (
    "vLLM's engine process has died, and the request with it; its log says why, and the model has "
    "to be loaded again"
)

_MEMORY = re.compile(
    "out of memory|OutOfMemory|MemoryError|[Cc]annot allocate|[Aa]vailable memory"
    "|cache is needed|cache blocks"
)
_ARGUMENT = re.compile("Input should be|validation error|Unexpected keyword|unknown.*argument")


def request_error(error: Exception) -> OpenLLMError:
    """Translate what a request met; errors of ours stay as they are."""
    from vllm.v1.engine.exceptions import EngineDeadError

    if isinstance(error, OpenLLMError):
        return error
    if isinstance(error, EngineDeadError):
        return EngineCrashedError(CRASHED)
    cause = error.__cause__ or error
    if isinstance(cause, ValueError) or type(cause).__name__ == "VLLMValidationError":
        parameter = getattr(cause, "parameter", None)
        message = cause.args[0] if cause.args else str(cause)
        return InvalidRequestError(f"vLLM refused the request: {message}", param=parameter)
    return EngineError(f"vLLM failed: {type(cause).__name__}: {cause}")


def start_error(error: Exception, reason: str | None, model: LocalModel) -> OpenLLMError:
    """Translate why a model could not be loaded.

    Args:
        error: What vLLM raised here.
        reason: What its own process logged first, if anything; more to the point.
        model: The model.
    """
    if isinstance(error, OpenLLMError):
        return error
    text = reason or f"{type(error).__name__}: {error}"
    text = " ".join(text.split())[:600]
    if _MEMORY.search(text):
        return OutOfMemoryError(
            f"model {model.name!r} needs more memory than is free ({text}); use a smaller "
            "context_length, max_concurrency or kv_cache_tokens"
        )
    if reason is None and _ARGUMENT.search(text):
        return ConfigurationError(f"vLLM refused its engine arguments: {text}", param="engine_arg")
    return EngineStartError(f"vLLM cannot load {model.path!r}: {text}")
