"""What vLLM raises, in our terms."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import ValidationError

from openllm.engines.library_errors import of_text, told
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

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

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
    return EngineError(f"vLLM failed: {told(cause)}")


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
    text = of_text(reason) if reason else _text(error)
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
    text = told(error)
    if isinstance(error, ValidationError):
        faults = error.errors(include_url=False)
        text = of_text("; ".join(map(_fault, faults)))
    return text.partition("Supported architectures:")[0]


def _fault(fault: ErrorDetails) -> str:
    where = ".".join(map(str, fault["loc"]))
    return f"{where} {fault['msg'].removeprefix('Value error, ')}".strip()
