"""Starting vLLM: its arguments, the environment of its processes, and the reason when it fails.

On one CPU (one NUMA node, one worker) the engine process computes by itself, as vLLM does on one
GPU. By its own choice vLLM would put a worker process behind it on every CPU, to bind that one's
threads to cores: one core would do nothing but schedule, and each step would pass twice between
processes.
"""

from __future__ import annotations

import gc
import logging
import os
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import spawn
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from openllm.config.model import PREFILL_CHUNK, LoadOptions, shown_device
from openllm.engines import vllm_child
from openllm.engines.context_option import context_asked
from openllm.engines.openmp import waiting
from openllm.engines.vllm_arguments import engine_arguments
from openllm.engines.vllm_errors import start_error
from openllm.engines.vllm_logs import LogPipe
from openllm.engines.vllm_memory import plan_kv_cache
from openllm.errors import ConfigurationError, EngineNotInstalledError
from openllm.machine import free_memory, usable_cores
from openllm.types import LocalModel

if TYPE_CHECKING:
    from openllm.engines.vllm_session import Session

logger = logging.getLogger("openllm.engines.vllm")

QUIET = {
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_CONFIGURE_LOGGING": "1",
    "PYTHONWARNINGS": "ignore",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
}
"""Environment of vLLM's processes: nothing is sent or downloaded, nothing printed."""


LOGGING = "VLLM_LOGGING_CONFIG_PATH"
VISIBLE = "CUDA_VISIBLE_DEVICES"
BIND = "VLLM_CPU_OMP_THREADS_BIND"
SIZING = ("gpu_memory_utilization", "kv_cache_memory_bytes", "num_gpu_blocks_override")
"""Engine arguments that size the KV cache; with one of them vLLM plans it by itself."""

MOST_FOLDER = 107 - len("/") - 36
"""Characters of a folder in which a socket may be called by a UUID."""

_NODES = Path("/sys/devices/system/node")


def import_vllm(logs: LogPipe) -> None:
    """Import what `load` needs; blocks for seconds.

    Call it in a thread of its own: some modules keep exceptions of their import, and with them the
    frames of all that called it.

    Raises:
        EngineNotInstalledError: vLLM cannot be imported.
    """
    vllm_child.hush()
    with environment(QUIET | {LOGGING: logs.config}), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import vllm.engine.arg_utils
            import vllm.v1.engine.async_llm  # noqa: F401

            from openllm.engines import vllm_session  # noqa: F401
        except ImportError as error:
            raise EngineNotInstalledError(
                f"the vLLM engine cannot be imported ({error}); run: pip install vllm, or on a "
                "machine without a GPU what docs/engines.md says under vllm"
            ) from error


def load(model: LocalModel, options: LoadOptions, logs: LogPipe) -> Session:
    """Load a model; blocks for a long time.

    Raises:
        ConfigurationError: An option or engine argument is wrong.
        EngineStartError: It cannot be loaded; the message says why.
    """
    from vllm.v1.engine.async_llm import AsyncLLM

    from openllm.engines.vllm_session import Session

    client = config = caught = None
    try:
        with environment(QUIET | {LOGGING: logs.config}):
            with reading_once():
                arguments, config = _configure(model, options)
            os.environ |= _of_processes(options, config, logs)
            with spawning_with(vllm_child.__name__):
                client = AsyncLLM.from_vllm_config(
                    config,
                    enable_log_requests=bool(arguments["enable_log_requests"]),
                    disable_log_stats=bool(arguments["disable_log_stats"]),
                )
        return Session(client, model)
    except Exception as error:
        logger.debug("vLLM did not start", exc_info=True)
        if client is not None:
            client.shutdown(0)
        logs.close()  # All that was logged is read then.
        caught = error
    failure = start_error(caught, logs.first_error, model, options.engine_arg)
    with releasing():
        client = config = caught = None
        # One of our own was raised in there.
        failure.__traceback__ = failure.__cause__ = failure.__context__ = None
    raise failure  # Out here it does not hold the frames of vLLM, with all that is in them.


@contextmanager
def releasing() -> Iterator[None]:
    """Free what the block lets go of, quietly: vLLM leaves its socket contexts to be collected."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
        gc.collect()


@contextmanager
def reading_once() -> Iterator[None]:
    """Have vLLM read a configuration once: after a failure it would log it, wait and try again,
    for the sake of caches that change meanwhile, which a folder of ours does not."""
    from vllm.transformers_utils import config

    again = getattr(config, "with_retry", None)
    if again is None:
        yield
        return
    config.with_retry = lambda function, *_, **__: function()
    try:
        yield
    finally:
        config.with_retry = again


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables meanwhile; then the environment is as before, whatever else was set in it."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)


@contextmanager
def spawning_with(module: str) -> Iterator[None]:
    """Processes that this thread spawns meanwhile import `module` first, as their main module.

    By itself `multiprocessing` would import the program's main module: a script that calls us
    outside of `if __name__ == "__main__"` would run once more in each of them.
    """
    prepare, thread = spawn.get_preparation_data, threading.get_ident()

    def prepare_ours(name: str) -> dict[str, Any]:
        data: dict[str, Any] = prepare(name)
        if threading.get_ident() == thread:
            data.pop("init_main_from_path", None)
            data["init_main_from_name"] = module
        return data

    spawn.get_preparation_data = prepare_ours
    try:
        yield
    finally:
        spawn.get_preparation_data = prepare


def threads_of(options: LoadOptions) -> int:
    """Return how many threads compute: as asked, else one for each core that we may use."""
    if options.threads is not None:
        return options.threads
    usable = round(usable_cores())
    return max(1, min(usable, psutil.cpu_count(logical=False) or usable))


def _configure(model: LocalModel, options: LoadOptions) -> tuple[dict[str, Any], Any]:
    """Return the engine arguments and the `VllmConfig` that vLLM makes of them."""
    from vllm.engine.arg_utils import AsyncEngineArgs as Arguments
    from vllm.platforms import current_platform

    _check_device(options.device, str(current_platform.device_type))
    arguments = engine_arguments(model, options, set(Arguments.__dataclass_fields__))
    if arguments.get("max_model_len") == options.context_length is not None:
        free = {name: value for name, value in arguments.items() if name != "max_model_len"}
        arguments["max_model_len"] = context_asked(
            model.name,
            options.context_length,
            Arguments(**free).create_model_config().max_model_len,
        )
    if not current_platform.is_cpu():
        arguments.setdefault("max_model_len", -1)  # As much of the model's as fits.
    elif arguments.get("runner") != "pooling":  # A pooled text is read in one step.
        # It reads some thousand tokens a second: with vLLM's own thousands in a step, the requests
        # of a burst all wait for the last one's prompt.
        step = PREFILL_CHUNK["vllm"] + arguments["max_num_seqs"]
        arguments.setdefault("max_num_batched_tokens", step)
    config = Arguments(**arguments).create_engine_config()
    if current_platform.is_cpu() and not _sized(arguments, config):
        plan = plan_kv_cache(
            model, config, free_memory(), options.context_length, options.kv_cache_tokens
        )
        if plan.context < config.model_config.max_model_len:
            arguments["max_model_len"] = plan.context
            config = Arguments(**arguments).create_engine_config()
        config.cache_config.kv_cache_memory_bytes = plan.size
    if options.kv_cache_tokens is not None:
        block = int(config.cache_config.block_size or 16)  # vLLM keeps one for itself.
        config.cache_config.num_gpu_blocks_override = -(-options.kv_cache_tokens // block) + 1
    if _computes_in_engine(arguments, config):
        config.parallel_config.distributed_executor_backend = "uni"
    return arguments, config


def _card(device: str) -> dict[str, str]:
    """Return the variable that shows one card only, of those this process may see."""
    number = device.partition(":")[2]
    if not number:
        return {}
    seen = os.environ.get(VISIBLE, "").split(",")
    return {VISIBLE: seen[int(number)] if len(seen) > int(number) and seen[0] else number}


def _check_device(device: str | None, kind: str) -> None:
    """Refuse a device that the installed vLLM was not built for."""
    if device is not None and device.partition(":")[0] != kind:
        raise ConfigurationError(
            f"device {shown_device(device)}: the installed vLLM computes on {kind}; give {kind}, or"
            " use backend torch",
            param="device",
        )


def _sized(arguments: Mapping[str, Any], config: Any) -> bool:
    """Whether the KV cache has its size already: by an engine argument, or a variable of vLLM's."""
    set_by_variable = config.cache_config.kv_cache_memory_bytes is not None
    return set_by_variable or not arguments.keys().isdisjoint(SIZING)


def _computes_in_engine(arguments: Mapping[str, Any], config: Any) -> bool:
    from vllm.platforms import current_platform

    parallel = config.parallel_config
    return (
        current_platform.is_cpu()
        and parallel.world_size == 1
        and parallel.data_parallel_size == 1
        and arguments.get("distributed_executor_backend") is None
        and BIND not in os.environ
        and len(list(_NODES.glob("node[0-9]*"))) <= 1
    )


def _of_processes(options: LoadOptions, config: Any, logs: LogPipe) -> dict[str, str]:
    """Return the variables that vLLM's processes have beside `QUIET`."""
    from vllm.platforms import current_platform

    found = {}
    if len(logs.folder) <= MOST_FOLDER:
        found["VLLM_RPC_BASE_PATH"] = logs.folder  # Its sockets: nobody else enters that folder.
    if options.enforce_eager:
        found["TORCHDYNAMO_DISABLE"] = "1"  # Else parts of the sampler are compiled all the same.
    if not current_platform.is_cpu():
        return found | _card(options.device or "")
    if config.parallel_config.distributed_executor_backend == "uni":
        found["OMP_NUM_THREADS"] = str(threads_of(options))
        found |= waiting()
        found["TMPDIR"] = logs.folder
    elif options.threads is not None and BIND not in os.environ:
        cores = sorted(os.sched_getaffinity(0))[: options.threads]
        found[BIND] = ",".join(map(str, cores))
    return found
