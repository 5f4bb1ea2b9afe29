"""The names that document S0 gives the product; each is an object of `openllm`.

import open_llm_server as olm

olm.start(model="demo")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from openllm._version import __version__

if TYPE_CHECKING:
    from openllm.bento.launch import start

__all__ = ["__version__", "start"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import openllm

    return getattr(openllm, name)


def __dir__() -> list[str]:
    return __all__
