"""Memory that is free on this machine: the processor's, within a container's limit, and the cards'.

Nothing of CUDA is started: asking it would take half a gigabyte of the card.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

_OWN_CGROUP = Path("/proc/self/cgroup")
_CGROUPS = Path("/sys/fs/cgroup")
_DEVICES = (Path("/dev/nvidiactl"), Path("/dev/kfd"))
_SECONDS = 5.0


def free_memory() -> int:
    """Return the bytes that programs can still take without swapping, or the container's rest."""
    import psutil

    return min((int(psutil.virtual_memory().available), *_left_in_groups()))


def free_cards() -> tuple[int, ...]:
    """Return the free bytes of each NVIDIA card this process may use; () where there is none.

    Where a card is there and nvidia-smi is not, torch is asked if it is installed.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip()
    if visible in ("", "-1") or not any(path.exists() for path in _DEVICES):
        return ()
    smi = shutil.which("nvidia-smi")
    cards = _by_smi(smi) if smi else _by_torch()
    chosen = [int(each) for each in visible.split(",") if each.strip().isdigit()]
    return tuple(cards[each] for each in chosen if each < len(cards)) if smi and chosen else cards


def _left_in_groups() -> Iterator[int]:
    """Yield what each control group around this process still allows; files' pages can go."""
    for folder in _groups():
        limit, used = _read(folder / "memory.max"), _read(folder / "memory.current")
        name = "inactive_file"
        if not limit:  # The older kind.
            limit, used = (
                _read(folder / "memory.limit_in_bytes"),
                _read(folder / "memory.usage_in_bytes"),
            )
            name = "total_inactive_file"
        if limit.isdigit() and used.isdigit():
            pages = re.search(rf"^{name} (\d+)$", _read(folder / "memory.stat"), re.MULTILINE)
            yield max(0, int(limit) - int(used) + (int(pages[1]) if pages else 0))


def _groups() -> Iterator[Path]:
    """Yield the folder of this process's control group and of those above it."""
    lines = [line.split(":", 2) for line in _read(_OWN_CGROUP).splitlines()]
    for _, controllers, path in (line for line in lines if len(line) == 3):
        if controllers and "memory" not in controllers.split(","):
            continue
        root = _CGROUPS / "memory" if controllers else _CGROUPS
        parts = [part for part in path.split("/") if part and part != ".."]
        for count in range(len(parts), -1, -1):
            yield root.joinpath(*parts[:count])


def _by_smi(smi: str) -> tuple[int, ...]:
    command = [smi, "--query-gpu=memory.free", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(  # noqa: S603
            command,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    lines = [line.strip() for line in done.stdout.splitlines()]
    return tuple(int(line) << 20 for line in lines if line.isdigit())


def _by_torch() -> tuple[int, ...]:
    try:
        import torch
    except ImportError:
        return ()
    count = torch.cuda.device_count()
    return tuple(int(torch.cuda.mem_get_info(card)[0]) for card in range(count))


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return ""
