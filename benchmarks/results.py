"""What every benchmark hands back: figures, the goals they are held against, the raw data."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import msgspec
import orjson
from rich.console import Console
from rich.table import Table

from openllm.bench.document import environment

SCHEMA = "openllm-benchmarks/1"


class Goal(msgspec.Struct, frozen=True):
    """A figure and the bound it should keep."""

    name: str
    value: float
    bound: float
    unit: str = ""
    at_least: bool = False

    @property
    def met(self) -> bool:
        return self.value >= self.bound if self.at_least else self.value <= self.bound


class Result(msgspec.Struct):
    """One benchmark; `data` is what the figures were worked out from."""

    benchmark: str
    goals: list[Goal]
    figures: dict[str, Any]
    data: dict[str, Any]
    notes: list[str] = msgspec.field(default_factory=list)


def write_result(result: Result, folder: Path) -> Path:
    """Write `<benchmark>.json` into `folder`."""
    document = {
        "schema": SCHEMA,
        "benchmark": result.benchmark,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "environment": environment(),
        "goals": [{**msgspec.to_builtins(goal), "met": goal.met} for goal in result.goals],
        "figures": result.figures,
        "notes": result.notes,
        "data": result.data,
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{result.benchmark}.json"
    path.write_bytes(orjson.dumps(document) + b"\n")
    return path


def print_result(result: Result, console: Console) -> None:
    """Print the goals as a table, then the notes."""
    table = Table(title=result.benchmark, title_justify="left")
    for name in ("figure", "reached", "goal", "met"):
        table.add_column(name, justify="left" if name == "figure" else "right")
    for goal in result.goals:
        sign = ">=" if goal.at_least else "<="
        reached = f"{goal.value:.3g} {goal.unit}".strip()
        bound = f"{sign} {goal.bound:g} {goal.unit}".strip()
        table.add_row(goal.name, reached, bound, "yes" if goal.met else "NO")
    console.print(table)
    for note in result.notes:
        console.print(f"note: {note}", markup=False)
