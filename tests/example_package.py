"""The example package as `pip install` leaves it: its modules, and the metadata beside them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

EXAMPLE = Path(__file__).parents[1] / "examples" / "markov"

_GROUP = re.compile(r'\[project\.entry-points\."([^"]+)"\]')
_ENTRY = re.compile(r'(\S+) = "([^"]+)"')


def install(folder: Path) -> Path:
    """Lay the package out in `folder`, to be put on a Python path; returns the folder."""
    shutil.copytree(EXAMPLE / "openllm_markov", folder / "openllm_markov")
    metadata = folder / "openllm_markov-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: openllm-markov\nVersion: 1.0\n"
    )
    (metadata / "entry_points.txt").write_text(entry_points())
    return folder


def entry_points() -> str:
    """Return the entry points of the example's pyproject.toml, as installers write them."""
    lines: list[str] = []
    inside = False
    for line in (EXAMPLE / "pyproject.toml").read_text().splitlines():
        if line.startswith("["):
            group = _GROUP.fullmatch(line)
            inside = group is not None
            lines += [f"[{group[1]}]"] if group else []
        elif inside and (entry := _ENTRY.fullmatch(line)):
            lines.append(f"{entry[1]} = {entry[2]}")
    return "\n".join(lines) + "\n"
