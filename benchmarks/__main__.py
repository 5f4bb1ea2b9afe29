"""Runs the benchmarks: `python -m benchmarks all --out benchmarks/results`.

`all` needs what the tests need; `engines` needs PyTorch, vLLM and the environments that
`benchmarks.peer_servers` names; `torch_cuda` needs a CUDA device as well, and is in neither.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import psutil
from rich.console import Console

from benchmarks import (
    download,
    fastchat,
    llama_server,
    overhead,
    startup,
    torch_cuda,
    torch_generate,
    transformers_serve,
    vllm_serve,
)
from benchmarks.results import Result, print_result, write_result

BUSY_PERCENT = 10.0
RESULTS = Path(__file__).parent / "results"
GROUPS = {
    "all": ("startup", "overhead", "llama_server", "download"),
    "engines": ("torch_generate", "transformers_serve", "fastchat", "vllm_serve"),
}


def _benchmarks(rounds: int, threads: int) -> dict[str, Callable[[], Result]]:
    return {
        "startup": startup.run,
        "overhead": overhead.run,
        "llama_server": lambda: llama_server.run(rounds, threads),
        "download": lambda: download.run(rounds),
        "torch_generate": lambda: torch_generate.run(rounds, threads),
        "transformers_serve": lambda: transformers_serve.run(rounds, threads),
        "fastchat": lambda: fastchat.run(min(rounds, 3), threads),
        "vllm_serve": lambda: vllm_serve.run(rounds, threads),
        "torch_cuda": lambda: torch_cuda.run(rounds, threads),
    }


@click.command()
@click.argument("which", type=click.Choice([*GROUPS, *_benchmarks(1, 1)]))
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=RESULTS)
@click.option("--rounds", type=click.IntRange(1, 100), default=5, help="Turns of each side.")
@click.option("--threads", type=click.IntRange(1, 1024), default=2, help="Threads of each engine.")
def main(which: str, out: Path, rounds: int, threads: int) -> None:
    """Run one benchmark or a group; write one JSON file each. Exit 1 if a goal is missed."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # So that the servers are stopped.
    console = Console()
    benchmarks = _benchmarks(rounds, threads)
    met = True
    for name in GROUPS.get(which, (which,)):
        begin = time.monotonic()
        console.print(f"running {name}")
        busy = psutil.cpu_percent(interval=1.0)
        try:
            result = benchmarks[name]()
        except (RuntimeError, ImportError) as exc:
            raise click.ClickException(f"{name}: {exc}") from exc
        result.data["cpu_busy_before_percent"] = busy
        if busy > BUSY_PERCENT:
            result.notes.append(f"other programs kept the machine {busy:.0f} % busy: do not quote")
        path = write_result(result, out)
        print_result(result, console)
        console.print(f"{path}, {time.monotonic() - begin:.0f} s", markup=False, highlight=False)
        met = met and all(goal.met for goal in result.goals)
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    main()
