"""`openllm doctor` on the machine: processor, memory with a container's limits, graphics cards."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from openllm.cli.doctor_check import Check
from openllm.machine import (
    Card,
    free_memory,
    memory_limit,
    nvidia_cards,
    total_memory,
    usable_cores,
)
from openllm.sizes import size_text

LITTLE_MEMORY = 2 << 30
"""With less free than this only the smallest models fit."""

_CPU_INFO = Path("/proc/cpuinfo")
_NVIDIA, _AMD = Path("/dev/nvidiactl"), Path("/dev/kfd")
_FEATURES = (
    "avx", "avx2", "fma", "f16c", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8",
    "asimd", "asimddp", "i8mm", "bf16", "sve",
)  # fmt: skip
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


def cpu_features() -> list[str]:
    """Return the instructions that matter for models; [] where the system does not tell."""
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", _cpu_info(), re.MULTILINE)
    has = set(found.group(1).split()) if found else set()
    return [name for name in _FEATURES if name in has]


def memory() -> Check:
    """Say how much memory there is, is free, and may be used in this container."""
    total, free, limit = total_memory(), free_memory(), memory_limit()
    text = f"{size_text(free)} free of {size_text(total)}"
    if limit is not None:
        text += f"; this container may use {size_text(limit)}"
    if free < LITTLE_MEMORY:
        return Check("memory", "warn", text, "stop other programs, or use small models only")
    return Check("memory", "ok", text)


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


def _nvidia(smi: str) -> Sequence[Check]:
    try:
        found = nvidia_cards(smi, _SMI_LIMIT)
    except OSError as error:
        return (
            Check("gpu", "fail", str(error), "repair the driver: nvidia-smi must list the cards"),
        )
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip()
    if hidden in ("", "-1"):
        text = f"{len(found)} hidden by CUDA_VISIBLE_DEVICES={hidden!r}"
        return (Check("gpu", "warn", text, "unset CUDA_VISIBLE_DEVICES to use them"),)
    return [*map(_card, found)] or (Check("gpu", "off", "nvidia-smi lists no card"),)


def _card(card: Card) -> Check:
    free, total = ("?" if size is None else size_text(size) for size in (card.free, card.total))
    text = f"{card.name}, {free} free of {total}"
    return Check("gpu", "ok", f"{text}, driver {card.driver}, compute {card.capability}")


def _cpu_info() -> str:
    try:
        return _CPU_INFO.read_text("utf-8", "replace")
    except OSError:
        return ""
