"""What this machine has left for models: memory within a container's limits, cores, cards.

Nothing of CUDA is started: asking it would take half a gigabyte of the card.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

_OWN_CGROUP = Path("/proc/self/cgroup")
_CGROUPS = Path("/sys/fs/cgroup")
_NVIDIA, _AMD = Path("/dev/nvidiactl"), Path("/dev/kfd")
_ASKED = "name,memory.total,memory.free,driver_version,compute_cap,uuid"
_SECONDS = 5.0
# Begins the name of a part of a card, of which nvidia-smi does not tell what is free.
_PART = "MIG-"


class Card(NamedTuple):
    """An NVIDIA card; sizes are bytes, None where the driver does not tell."""

    name: str
    total: int | None
    free: int | None
    driver: str
    capability: str
    uuid: str


def total_memory() -> int:
    """Return the bytes of the machine's memory, whatever limits there are."""
    import psutil

    return int(psutil.virtual_memory().total)


def memory_limit() -> int | None:
    """Return the bytes that control groups allow this process and its kin; None if all."""
    limit = min((group.limit for group in _limited_groups()), default=None)
    return None if limit is None or limit >= total_memory() else limit


def free_memory() -> int:
    """Return the bytes that programs can still take without swapping, or the container's rest."""
    import psutil

    left = (group.left for group in _limited_groups())
    return min((int(psutil.virtual_memory().available), *left))


def usable_cores() -> float:
    """Return the cores that the scheduler and a container's quota leave to this process."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = float(len(affinity(0)) if affinity else os.cpu_count() or 1)
    for folder in _groups():
        quota, _, period = _read(folder / "cpu.max").partition(" ")
        if quota.isdigit() and period.isdigit():
            cores = min(cores, int(quota) / int(period))
    return round(cores, 2)


def free_cards() -> tuple[int, ...] | None:
    """Return the free bytes of each card this process may use; () where there is none.

    None where cards are there and nvidia-smi does not tell what is free on each of them.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    hidden = visible is not None and visible.strip() in ("", "-1")
    if hidden or not (_NVIDIA.exists() or (_AMD.exists() and _computes_on_amd())):
        return ()
    smi = shutil.which("nvidia-smi")
    if smi is None or (visible is not None and _PART in visible):
        return None
    try:
        cards = nvidia_cards(smi)
    except OSError:
        return None
    if visible is not None:
        cards = tuple(_visible(cards, visible))
    free = tuple(card.free for card in cards if card.free is not None)
    return free if len(free) == len(cards) else None


def nvidia_cards(smi: str, seconds: float = _SECONDS) -> tuple[Card, ...]:
    """Return the cards that nvidia-smi, a program at the path `smi`, lists.

    Raises:
        OSError: It fails, or does not answer within `seconds`.
    """
    command = [smi, f"--query-gpu={_ASKED}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(  # noqa: S603
            command,
            capture_output=True,
            text=True,
            timeout=seconds,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"nvidia-smi does not answer within {seconds:g} s") from None
    if done.returncode:
        raise OSError(f"nvidia-smi fails: {(done.stdout or done.stderr).strip()}")
    return tuple(_card(line) for line in done.stdout.splitlines() if line.strip())


def _visible(cards: Sequence[Card], listed: str) -> Iterator[Card]:
    """Yield what CUDA shows for a list of numbers and of beginnings of UUIDs.

    As with CUDA the list ends at what is no card.
    """
    for each in map(str.strip, listed.split(",")):
        if each.isdecimal():
            found = cards[int(each) : int(each) + 1]
        else:
            found = [card for card in cards if each and card.uuid.startswith(each)]
        if len(found) != 1:
            return
        yield found[0]


class _Group(NamedTuple):
    """What a control group allows, and what is left of it; files' pages can go."""

    limit: int
    left: int


def _limited_groups() -> Iterator[_Group]:
    """Yield the control groups around this process that limit its memory."""
    for folder in _groups():
        limit, used = _read(folder / "memory.max"), _read(folder / "memory.current")
        name = "inactive_file"
        if not limit:  # The older kind.
            limit = _read(folder / "memory.limit_in_bytes")
            used = _read(folder / "memory.usage_in_bytes")
            name = "total_inactive_file"
        if limit.isdigit():
            pages = re.search(rf"^{name} (\d+)$", _read(folder / "memory.stat"), re.MULTILINE)
            left = int(limit) - int(used or 0) + (int(pages[1]) if pages else 0)
            yield _Group(int(limit), max(0, left))


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


def _card(line: str) -> Card:
    name, total, free, driver, capability, uuid = (
        part.strip() for part in [*line.split(","), *[""] * 5][:6]
    )
    return Card(name, _of_mib(total), _of_mib(free), driver, capability, uuid)


def _of_mib(text: str) -> int | None:
    return int(text) << 20 if text.isdigit() else None


def _computes_on_amd() -> bool:
    """Whether torch is a build for AMD's cards; others let them lie idle, as a laptop's own."""
    try:
        return "rocm" in version("torch")
    except PackageNotFoundError:
        return False


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return ""
