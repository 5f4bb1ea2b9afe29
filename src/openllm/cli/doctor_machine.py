"""`openllm doctor` on the machine: processor, memory with a container's limits, graphics cards."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from openllm.cli.doctor_check import Check

GIB = 1 << 30
LITTLE_MEMORY = 2 * GIB
"""With less free than this only the smallest models fit."""

_CPU_INFO = Path("/proc/cpuinfo")
_OWN_CGROUP = Path("/proc/self/cgroup")
_CGROUPS = Path("/sys/fs/cgroup")
_NVIDIA, _AMD = Path("/dev/nvidiactl"), Path("/dev/kfd")
_FEATURES = (
    "avx", "avx2", "fma", "f16c", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8",
    "asimd", "asimddp", "i8mm", "bf16", "sve",
)  # fmt: skip
_ASKED = "name,memory.total,memory.free,driver_version,compute_cap"
_SMI_LIMIT = 3.0


def look_at_machine() -> Sequence[Check]:
    """Say what there is to compute with."""
    return (processor(), memory(), *cards())


def processor() -> Check:
    """Say how many cores this process may use and what they can do."""
    cores = usable_cores()
    all_cores = os.cpu_count() or cores
    features = cpu_features()
    text = f"{cores:g} cores" + (f" of {all_cores}" if cores != all_cores else "")
    if features:
        text += f", {' '.join(features)}"
    if features and platform.machine().lower() in ("x86_64", "amd64") and "avx2" not in features:
        fix = "engines may end or be very slow here; use a machine with AVX2"
        return Check("processor", "warn", f"{text}; AVX2 is lacking", fix)
    return Check("processor", "ok", text)


def usable_cores() -> float:
    """Return the cores that the scheduler and a container's quota leave to this process."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = float(len(affinity(0)) if affinity else os.cpu_count() or 1)
    for folder in _cgroup_folders():
        quota, _, period = _read(folder / "cpu.max").partition(" ")
        if quota.isdigit() and period.isdigit():
            cores = min(cores, int(quota) / int(period))
    return round(cores, 2)


def cpu_features() -> list[str]:
    """Return the instructions that matter for models; [] where the system does not tell."""
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", _read(_CPU_INFO), re.MULTILINE)
    has = set(found.group(1).split()) if found else set()
    return [name for name in _FEATURES if name in has]


def memory() -> Check:
    """Say how much memory there is, is free, and may be used in this container."""
    import psutil

    machine = psutil.virtual_memory()
    total, free = int(machine.total), int(machine.available)
    text = f"{gib(free)} free of {gib(total)}"
    limit = memory_limit()
    if limit is not None and limit < total:
        text += f"; this container may use {gib(limit)}"
        free = min(free, limit)
    if free < LITTLE_MEMORY:
        return Check("memory", "warn", text, "stop other programs, or use small models only")
    return Check("memory", "ok", text)


def memory_limit() -> int | None:
    """Return the bytes that a control group allows this process and its kin; None if any."""
    limits = [_read(folder / "memory.max") for folder in _cgroup_folders()]
    limits.append(_read(_CGROUPS / "memory" / "memory.limit_in_bytes"))  # The older kind.
    return min((int(each) for each in limits if each.isdigit()), default=None)


def cards() -> Sequence[Check]:
    """Say which graphics cards there are."""
    if sys.platform == "darwin":
        return (Check("gpu", "ok", "Apple: llama.cpp computes by Metal, torch by MPS"),)
    smi = shutil.which("nvidia-smi")
    if smi:
        return _nvidia(smi)
    if _NVIDIA.exists():
        fix = "install nvidia-smi, which is part of the driver"
        return (Check("gpu", "warn", "NVIDIA, of which nothing is known", fix),)
    if _AMD.exists():
        return (Check("gpu", "ok", "AMD, for engines built for ROCm"),)
    return (Check("gpu", "off", "none; models are computed on the processor"),)


def gib(size: int) -> str:
    """Write a number of bytes."""
    return f"{size / GIB:.1f} GiB"


def _nvidia(smi: str) -> Sequence[Check]:
    command = [smi, f"--query-gpu={_ASKED}", "--format=csv,noheader,nounits"]
    fix = "repair the driver: nvidia-smi must list the cards"
    try:
        done = subprocess.run(  # noqa: S603
            command,
            capture_output=True,
            text=True,
            timeout=_SMI_LIMIT,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return (Check("gpu", "fail", f"nvidia-smi does not answer within {_SMI_LIMIT:g} s", fix),)
    if done.returncode:
        return (Check("gpu", "fail", f"nvidia-smi fails: {done.stdout or done.stderr}", fix),)
    found = [_card(line) for line in done.stdout.splitlines() if line.strip()]
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip()
    if hidden in ("", "-1"):
        text = f"{len(found)} hidden by CUDA_VISIBLE_DEVICES={hidden!r}"
        return (Check("gpu", "warn", text, "unset CUDA_VISIBLE_DEVICES to use them"),)
    return found or (Check("gpu", "off", "nvidia-smi lists no card"),)


def _card(line: str) -> Check:
    name, total, free, driver, capability = (
        part.strip() for part in [*line.split(","), "", "", "", ""][:5]
    )
    sizes = f"{_mib(free)} free of {_mib(total)}"
    return Check("gpu", "ok", f"{name}, {sizes}, driver {driver}, compute {capability}")


def _mib(text: str) -> str:
    return gib(int(text) << 20) if text.isdigit() else "?"


def _cgroup_folders() -> Iterator[Path]:
    """Yield the control group of this process and those above it, up to the root that is seen."""
    own = re.search(r"^0::/(.*)$", _read(_OWN_CGROUP), re.MULTILINE)
    parts = own.group(1).split("/") if own else []
    for count in range(len(parts), -1, -1):
        yield _CGROUPS.joinpath(*parts[:count])


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return ""
