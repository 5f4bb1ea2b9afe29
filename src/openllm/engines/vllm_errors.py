"""What vLLM raises, in our terms."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pydantic import ValidationError

from openllm.errors import (
    ConfigurationError,
    EngineCrashedError,
    EngineError,
    EngineStartError,
    InvalidRequestError,
    OpenLLMError,
    OutOfMemoryError,
    OverloadedError,
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


def request_error(error: Exception) -> OpenLLMError:
    """Translate what vLLM raised for a request; an error of ours in it stays as it is."""
    from vllm.v1.engine.exceptions import EngineDeadError

    if isinstance(error, EngineDeadError):
        return EngineCrashedError(CRASHED)
    cause = error.__cause__ or error
    if isinstance(cause, OpenLLMError):
        return cause
    if type(cause).__name__ in ("QueueOverflowError", "MaxQueuedTokensError"):
        return OverloadedError("vLLM's queue is full; try again later", retry_after=1.0)
    if isinstance(cause, ValueError) or type(cause).__name__ == "VLLMValidationError":
        parameter = getattr(cause, "parameter", None)
        message = cause.args[0] if cause.args else str(cause)
        return InvalidRequestError(f"vLLM refused the request: {message}", param=parameter)
    return EngineError(f"vLLM failed: {type(cause).__name__}: {cause}")


def start_error(
    error: Exception, reason: str | None, model: LocalModel, handed: Sequence[str]
) -> OpenLLMError:
    """Translate why a model could not be loaded.

    Args:
        error: What vLLM raised here.
        reason: What its own process logged first, if anything; more to the point.
        model: The model.
        handed: The engine arguments handed through, which may be to blame.
    """
    if isinstance(error, OpenLLMError):
        return error
    text = " ".join((reason or _text(error)).split())[:600]
    if _MEMORY.search(text):
        return OutOfMemoryError(
            f"model {model.name!r} needs more memory than is free ({text}); use a smaller "
            "context_length, max_concurrency or kv_cache_tokens"
        )
    if reason is None and handed and isinstance(error, (TypeError, ValueError)):
        return ConfigurationError(
            f"vLLM cannot be started with engine_arg {' '.join(handed)}: {text}", param="engine_arg"
        )
    return EngineStartError(f"vLLM cannot load {model.path!r}: {text}")


def _text(error: Exception) -> str:
    """Return what an exception says; of pydantic's, each value at fault and why."""
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, ValidationError):
        faults = error.errors(include_url=False)
        text = "; ".join(f"{'.'.join(map(str, f['loc']))} {f['msg']}".strip() for f in faults)
    return text.removeprefix("Value error, ").partition("Supported architectures:")[0]
