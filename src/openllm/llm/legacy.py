"""The names that `openllm.LLM` replaces: thin layers over it, or an error that says what to use.

    openllm.AutoLLM.for_model("llama", model_id=...)     AutoVLLM for vLLM
    openllm.Llama.from_pretrained(...)                   VLLMLlama for vLLM; so for every family
    openllm.Runner("llama", model_id=..., backend=...)   the runner of an LLM

Names without a prefix take the engine that fits the model. TensorFlow and Flax are refused:
transformers itself no longer has them.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any, NoReturn

from openllm.errors import UnsupportedError
from openllm.llm.llm import LLM
from openllm.models.layouts import check_files

_BACKENDS = {"VLLM": "vllm", "TF": "tf", "Flax": "flax"}
_REFUSED = {"tf": "TensorFlow", "flax": "Flax"}


class ModelClass:
    """One of the older classes, by its name."""

    def __init__(self, name: str) -> None:
        own = name.removeprefix("Auto")
        backends = (each for prefix, each in _BACKENDS.items() if own.startswith(prefix))
        self._name = f"openllm.{name}"
        self._backend = next(backends, None)

    def __repr__(self) -> str:
        return self._name

    def __call__(self, *_: object, **__: object) -> NoReturn:
        raise TypeError(f"{self._name} is not built directly; use openllm.LLM(model_id)")

    def for_model(
        self,
        model_name: str,
        model_id: str | os.PathLike[str] | None = None,
        *,
        ensure_available: bool = False,
        **options: Any,
    ) -> LLM:
        """Return an LLM of `model_id`, or if there is none of what `model_name` means.

        Args:
            model_name: Name of a family, which means its example, or of a model.
            model_id: As `openllm.LLM` takes it.
            ensure_available: Download the model now if it is not here, and check its files.
            options: As `openllm.LLM` takes them.
        """
        _refuse(self._name, self._backend)
        if model_id is None:
            model_id = model_name
        llm = LLM(model_id, **{"backend": self._backend} | options)
        if ensure_available:
            load = llm.config.load
            check_files(
                llm._source.get(),
                trust_remote_code=load.trust_remote_code,
                weights=load.load_format != "dummy",
            )
        return llm

    def from_pretrained(self, model_id: str | os.PathLike[str], **options: Any) -> LLM:
        """Return an LLM; see `LLM.from_pretrained`."""
        _refuse(self._name, self._backend)
        return LLM.from_pretrained(model_id, **{"backend": self._backend} | options)


@cache
def model_class(name: str) -> ModelClass:
    """Return the older class `name`, always the same."""
    return ModelClass(name)


def Runner(
    model_name: str,
    model_id: str | os.PathLike[str] | None = None,
    backend: str | None = None,
    **options: Any,
) -> Any:
    """Return the runner of an LLM; arguments are those of `AutoLLM.for_model`."""
    _refuse("openllm.Runner", backend)
    auto = model_class("AutoLLM")
    return auto.for_model(model_name, model_id, backend=backend, **options).runner


def _refuse(name: str, backend: str | None) -> None:
    if backend in _REFUSED:
        raise UnsupportedError(
            f"{name}: {_REFUSED[backend]} models are not served, as transformers no longer has"
            " them; use openllm.LLM(model_id), which runs the model on PyTorch or vLLM",
            param="backend",
        )
