"""llama-server's own C++ HTTP front end, on the engine build that we use ourselves.

    python -m benchmarks.peers.llama_server MODEL.gguf SLOTS CONTEXT THREADS

Prints its address, then serves until its standard input ends. What concerns the engine is set as
`openllm.engines.llamacpp_load` sets it; what concerns HTTP keeps llama-server's own defaults.
"""

from __future__ import annotations

import sys

import xllamacpp


def main(model: str, slots: int, context: int, threads: int) -> None:
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.model_alias = {"benchmark"}
    params.n_parallel = slots
    params.n_ctx = context * slots
    params.kv_unified_per_slot = context
    params.n_batch = params.n_ubatch = 512
    params.kv_unified = False
    params.ctx_shift = False
    params.cache_prompt = True
    params.cpuparams.n_threads = threads
    params.cpuparams_batch.n_threads = threads
    params.cache_ram_mib = 0
    params.n_gpu_layers = 0
    params.ui = False
    params.verbosity = 1
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1], *(int(argument) for argument in sys.argv[2:5]))
