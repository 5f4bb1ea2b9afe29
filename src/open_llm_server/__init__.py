"""The names that document S0 gives the product; the work is done in `openllm`.

    import open_llm_server as olm
    from open_llm_server.llama import get_runner as get_llama_runner

    olm.start(model="demo")
    llama_runner = get_llama_runner(top_k=3, top_p=0.15)

Every family of models is a module here, with the name `openllm models` prints.
"""

from __future__ import annotations

import re
import sys
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

from openllm._version import __version__
from openllm.models.families import families

if TYPE_CHECKING:
    from openllm.bento.launch import start
    from openllm.bento.registry import LLMModel, import_model
    from openllm.bento.runnable import LLMRunnable
    from openllm.bento.runners import get_runner
    from openllm.models.registry import REGISTRY as Registry

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

    def __init__(self, module: str, family: str) -> None:
        super().__init__(f"{__name__}.{module}", f"Runners of the family {family}.")
        self.__spec__ = ModuleSpec(self.__name__, loader=None)
        self._family = family

    def get_runner(self, model_name: str = "", **options: Any) -> Any:
        """Return a runner of the family; see `openllm.bento.runners.get_family_runner`."""
        make = import_module("openllm.bento.runners").get_family_runner
        return make(self._family, model_name, **options)


def _add_modules(family: str) -> None:
    """Let a family's name be imported with underscores, and with hyphens by `import_module`."""
    plain = re.sub(r"\W", "_", family)
    for spelling in (plain, plain.replace("_", "-")):
        module = _FamilyModule(spelling, family)
        sys.modules[module.__name__] = globals()[spelling] = module


for _row in families():
    for _name in (*_row.aliases, _row.name):
        _add_modules(_name.replace("_", "-"))


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _PUBLIC[name].partition(":")
    return getattr(import_module(module), attribute or name)


def __dir__() -> list[str]:
    return __all__
