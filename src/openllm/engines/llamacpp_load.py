"""Loading a GGUF file into llama.cpp: its parameters, and the reason when it fails.

What content could cross conversations by stays off: the prompt cache in memory that is shared by
all slots (`cache_ram_mib`), the copies of idle slots in it (`cache_idle_slots`), and one KV cache
for all (`kv_unified`). A slot keeps its own last conversation, so that its next turn is short.
"""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from openllm.config.model import CONCURRENCY, FREE_SHARE, LoadOptions
from openllm.engines.context_option import context_asked
from openllm.engines.llamacpp_devices import place
from openllm.errors import EngineStartError, OutOfMemoryError
from openllm.machine import free_memory, total_memory, usable_cores
from openllm.types import LocalModel

# Tokens read at once. An abort, and every other sequence, waits for one batch; embeddings are read
# whole, so it is also their limit.
BATCH = 512
SLOTS = CONCURRENCY["llamacpp"]
QUIET, ERRORS = 0, 1
ALIAS = "m"  # Repeated in every event; llama.cpp's default is the file's path.

_HEAD = 1 << 20
_REASON = re.compile(r" E (?:\S+ +\S+: )?(.+)")


def gguf_number(path: str, name: str) -> int | None:
    """Return the 32-bit number `<architecture>.<name>` near the start of a GGUF file.

    A look for the key's bytes rather than a parser, as only defaults depend on it: None when it is
    not found.
    """
    with open(path, "rb") as file:
        head = file.read(_HEAD)
    key = re.escape(b"." + name.encode()) + b"[\x04\x05]\x00\x00\x00(....)"
    found = re.search(key, head, re.DOTALL)
    return int.from_bytes(found[1], "little") if found else None


def context_option(model: LocalModel, options: LoadOptions) -> int | None:
    """Return the context asked for, at most what the model was made for."""
    limit = gguf_number(model.path, "context_length")
    return context_asked(model.name, options.context_length, limit)


def load(model: LocalModel, options: LoadOptions, socket_path: str, secret: str) -> Any:
    """Load a model; blocks, and holds the interpreter lock meanwhile.

    Returns:
        The `xllamacpp.Server`, listening on `socket_path` too.

    Raises:
        EngineStartError: It cannot be loaded; the message says why.
    """
    import xllamacpp

    check_file(model.path)
    params = common_params(model, options)
    params.hostnames = [socket_path]
    params.api_keys = [secret]
    try:
        return xllamacpp.Server(params)
    except (RuntimeError, ValueError, MemoryError) as error:
        reason = _reason(params) or str(error)
    if "allocate" in reason:
        raise OutOfMemoryError(
            f"model {model.name!r} needs more memory than is free ({reason}); "
            "use a smaller context_length or max_concurrency"
        )
    raise EngineStartError(f"llama.cpp cannot load {model.path!r}: {reason}")


def check_file(path: str) -> None:
    """Raise `EngineStartError` when `path` is no GGUF file that can be read."""
    try:
        with open(path, "rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise EngineStartError(f"cannot read the model {path!r}: {error.strerror}") from None
    if magic != b"GGUF":
        raise EngineStartError(f"{path!r} is no GGUF file: it begins with {magic!r}")


def common_params(model: LocalModel, options: LoadOptions) -> Any:
    """Return llama.cpp's parameters for a model."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = model.path
    params.model_alias = {ALIAS}
    params.verbosity = QUIET
    params.n_batch = params.n_ubatch = BATCH
    _size(params, context_option(model, options), options.max_concurrency or SLOTS)
    params.kv_unified = False
    params.ctx_shift = False
    params.cache_prompt = True
    params.cache_ram_mib = 0
    params.cache_idle_slots = False
    params.ui = False
    params.n_threads_http = 2
    params.sse_ping_interval = -1
    if threads := options.threads or _allowed_threads():
        params.cpuparams.n_threads = threads
        params.cpuparams_batch.n_threads = threads
    if options.device is not None:
        place(params, options.device)
    if options.gpu_layers is not None:
        params.n_gpu_layers = options.gpu_layers
    params.lora_adapters = [
        xllamacpp.CommonAdapterLoraInfo(adapter.path, 0.0 if adapter.name else 1.0)
        for adapter in model.adapters
    ]
    params.embedding = options.embeddings
    if options.embeddings and gguf_number(model.path, "pooling_type") is None:
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    return params


def _allowed_threads() -> int | None:
    """Return how many cores this process may use if they are not all.

    llama.cpp would take every physical one, and its threads spin while they wait for those that a
    container's quota keeps from running.
    """
    usable = round(usable_cores())
    return max(1, usable) if usable < (os.cpu_count() or 1) else None


def _size(params: Any, context: int | None, slots: int) -> None:
    """Give each slot `context` tokens; None lets llama.cpp take what fits, up to the model's own.

    Its measure is all of the machine's memory less a margin: the margin here leaves the rest of
    `FREE_SHARE` to others. On a GPU its own margin holds.
    """
    params.n_parallel = slots
    params.fit_params = True
    if context is not None:
        params.n_ctx = context * slots
        params.kv_unified_per_slot = context  # Else the context is rounded up.
    elif margin := _memory_margin():
        params.fit_params_target = [margin] * len(params.fit_params_target)


def _memory_margin() -> int | None:
    import xllamacpp

    kinds = xllamacpp.ggml_backend_dev_type
    if any(d["type"] != kinds.GGML_BACKEND_DEVICE_TYPE_CPU for d in xllamacpp.get_device_info()):
        return None
    return total_memory() - int(free_memory() * FREE_SHARE["llamacpp"])


def _reason(params: Any) -> str:
    """Load again with llama.cpp's messages caught, as an exception of it says nothing."""
    import xllamacpp

    params.verbosity = ERRORS
    Path(params.hostnames[0]).unlink(missing_ok=True)
    with tempfile.TemporaryFile() as file, _stderr_to(file.fileno()):
        try:
            xllamacpp.Server(params)
        except (RuntimeError, ValueError, MemoryError):
            time.sleep(0.1)  # Its log is written by a thread.
        file.seek(0)
        text = file.read().decode("utf-8", "replace")
    reasons = [line.strip() for line in _REASON.findall(text) if "exiting" not in line]
    return "; ".join(reasons[:2])


@contextmanager
def _stderr_to(descriptor: int) -> Iterator[None]:
    """Send what this process writes to file descriptor 2 elsewhere, native code included."""
    kept = os.dup(2)
    os.dup2(descriptor, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
