"""Runs the benchmarks: `python -m benchmarks all --out benchmarks/results`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import psutil
from rich.console import Console

from benchmarks import llama_server, overhead, startup
from benchmarks.results import Result, print_result, write_result

BUSY_PERCENT = 10.0
RESULTS = Path(__file__).parent / "results"


def _benchmarks(rounds: int, threads: int) -> dict[str, Callable[[], Result]]:
    return {
        "startup": startup.run,
        "overhead": overhead.run,
        "llama_server": lambda: llama_server.run(rounds, threads),
    }


@click.command()
@click.argument("which", type=click.Choice(["all", *_benchmarks(1, 1)]))
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=RESULTS)
@click.option("--rounds", type=click.IntRange(1, 100), default=5, help="Rounds of llama_server.")
@click.option("--threads", type=click.IntRange(1, 1024), default=2, help="Threads of the engine.")
def main(which: str, out: Path, rounds: int, threads: int) -> None:
    """Run one benchmark or all of them; write one JSON file each. Exit 1 if a goal is missed."""
    console = Console()
    chosen = _benchmarks(rounds, threads)
    met = True
    for name, run in chosen.items():
        if which not in ("all", name):
            continue
        begin = time.monotonic()
        console.print(f"running {name}")
        busy = psutil.cpu_percent(interval=1.0)
        try:
            result = run()
        except RuntimeError as exc:
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
