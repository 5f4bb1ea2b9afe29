"""Starts the servers that our torch and vLLM engines are measured against.

vLLM's is in the environment that runs the benchmark. The others need versions of their own, so each
has an environment below `PEERS`:

    python -m venv build/peers/transformers
    build/peers/transformers/bin/pip install torch==2.13.0 'transformers[serving]==5.23.0'
    python -m venv build/peers/fastchat
    build/peers/fastchat/bin/pip install torch==2.13.0
    build/peers/fastchat/bin/pip install 'fschat[model_worker]==0.2.36' transformers==4.46.3
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from benchmarks.make_model import BUILD
from benchmarks.servers import RunningServer, free_port, http_server, printing_server
from openllm.engines.openmp import waiting

PEERS = BUILD / "peers"
BLOCKS = 512
"""Blocks of 256 tokens that `transformers serve` caches, by default as many as fill the memory."""
START_TIMEOUT = 300.0


@contextmanager
def vllm_server(
    folder: Path, concurrency: int, *options: str, env: Mapping[str, str] | None = None
) -> Iterator[RunningServer]:
    """Run `vllm serve` with its own defaults but for the sequences at once and `options`."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.peers.vllm_server", "serve", str(folder)]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    command += ["--max-num-seqs", str(concurrency), *options]
    with http_server(command, port, "/health", env, START_TIMEOUT) as server:
        yield server


@contextmanager
def transformers_server(folder: Path, threads: int) -> Iterator[RunningServer]:
    """Run `transformers serve` with continuous batching; its model is named by `folder`."""
    port = free_port()
    command = [str(_python("transformers").with_name("transformers")), "serve", str(folder)]
    command += ["--continuous-batching", "--attn-implementation", "sdpa", "--device", "cpu"]
    command += ["--dtype", "bfloat16", "--cb-num-blocks", str(BLOCKS)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--log-level", "error"]
    with (
        tempfile.TemporaryDirectory() as home,
        http_server(
            command, port, "/health", thread_settings(threads) | {"HF_HOME": home}, START_TIMEOUT
        ) as server,
    ):
        yield server


@contextmanager
def fastchat_server(folder: Path, threads: int) -> Iterator[RunningServer]:
    """Run FastChat's controller, model worker and OpenAI server, with their own defaults."""
    command = [str(_python("fastchat")), "-m", "benchmarks.peers.fastchat_server", str(folder)]
    with printing_server(command, thread_settings(threads), START_TIMEOUT) as server:
        yield server


def peer_version(peer: str, package: str) -> str:
    """Return the version of `package` in the environment of `peer`."""
    code = f"from importlib.metadata import version; print(version({package!r}))"
    command = [str(_python(peer)), "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _python(peer: str) -> Path:
    path = PEERS / peer / "bin" / "python"
    if not path.exists():
        raise RuntimeError(f"{path} is not there; benchmarks/peer_servers.py says how to make it")
    return path


def thread_settings(threads: int) -> dict[str, str]:
    """Return the environment of a peer, whose threads wait for each other as our engine's do.

    With PyTorch's default, to spin without an end, a peer is as fast as with this while nothing
    else runs, and much slower as soon as its own HTTP server or the load generator wants a core.
    """
    return {**os.environ, "OMP_NUM_THREADS": str(threads), **waiting({})}
