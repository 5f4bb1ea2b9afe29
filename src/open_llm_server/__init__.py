"""The names that document S0 gives the product; the work is done in `openllm`.

    import open_llm_server as olm
    from open_llm_server.llama import get_runner as get_llama_runner

    olm.start(model="demo")
    llama_runner = get_llama_runner(top_k=3, top_p=0.15)

Every family of models is a module here, with the name `openllm models` prints; those that
`Registry.add_family` or an installed package adds are too.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from openllm._version import __version__
from openllm.models.families import find
from openllm.models.family import plain

_PUBLIC = {
    "LLMModel": "openllm.bento.registry",
    "LLMRunnable": "openllm.bento.runnable",
    "Registry": "openllm.models.registry:REGISTRY",
    "get_runner": "openllm.bento.runners",
    "import_model": "openllm.bento.registry",
    "start": "openllm.bento.launch",
}

__all__ = [
    "LLMModel",
    "LLMRunnable",
    "Registry",
    "__version__",
    "get_runner",
    "import_model",
    "start",
]


class _FamilyModule(ModuleType):
    """`open_llm_server.<family>`, whose `get_runner` need not be told the name."""

    _family: str

    def get_runner(self, model_name: str = "", **options: Any) -> Any:
        """Return a runner of the family; see `openllm.bento.runners.get_family_runner`."""
        make = import_module("openllm.bento.runners").get_family_runner
        return make(self._family, model_name, **options)


class _FamilyFinder(MetaPathFinder, Loader):
    """Lets a family's name be imported with underscores, and with hyphens by `import_module`."""

    def find_spec(self, fullname: str, *where: Any) -> ModuleSpec | None:
        package, _, module = fullname.rpartition(".")
        name = _family_name(module) if package == __name__ else None
        return ModuleSpec(fullname, self, origin=name) if name else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _FamilyModule(spec.name, f"Runners of the family {spec.origin}.")

    def exec_module(self, module: ModuleType) -> None:
        if isinstance(module, _FamilyModule) and module.__spec__ is not None:
            module._family = module.__spec__.origin or ""


def _family_name(module: str) -> str | None:
    """Return the name of the family that a module stands for, as a model's name."""
    family = find(module)
    names = (family.name, *family.aliases) if family else ()
    return next((name.replace("_", "-") for name in names if plain(name) == plain(module)), None)


sys.meta_path.append(_FamilyFinder())


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        module, _, attribute = _PUBLIC[name].partition(":")
        return getattr(import_module(module), attribute or name)
    if not name.startswith("_") and _family_name(name):
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
