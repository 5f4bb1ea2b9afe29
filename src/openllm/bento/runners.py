"""Runners of models for BentoML's older services, `bentoml.legacy.Service(runners=[...])`.

    llama = get_runner("llama", top_k=3, top_p=0.15)
    svc = bentoml.legacy.Service("chat", runners=[llama, my_other_runner])

A runner has the name of its model, so that BentoML's configuration file can mean it:

    version: 1
    runners:
      llama: {resources: {cpu: 4}, traffic: {timeout: 60}}

BentoML takes the file from BENTOML_CONFIG; BENTOML_CONFIGURATION, as the documents have it, is as
good for what is in this room. `openllm.llm` finds `llm_runner` and `stored_model` by name, as it
may not import this room.
"""

from __future__ import annotations

import math
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import bentoml
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml._internal.context import server_context
from bentoml._internal.resource import get_resource
from bentoml._internal.utils import deep_merge
from bentoml.legacy import Runner

from openllm.bento.registry import stored_model
from openllm.bento.runnable import LLMRunnable, runnable_class
from openllm.bento.runner_handles import InProcess, Remote, Serving
from openllm.errors import ConfigurationError
from openllm.llm.llm import LLM
from openllm.models import families
from openllm.models.locate import expand
from openllm.models.ref import parse_ref

if TYPE_CHECKING:
    from openllm.config.download import DownloadOptions

__all__ = ["LLMRunner", "get_family_runner", "get_runner", "llm_runner", "stored_model"]

MAX_NAME = 63


class LLMRunner(Runner):
    """A runner whose calls run at the same time, in whatever process it is."""

    def init_here(self) -> None:
        """Let it be used in this process; its first call loads the model."""
        if not isinstance(self._runner_handle, InProcess):
            served = server_context.service_type == "runner" and not self.embedded
            self._set_handle(Serving if served else InProcess)

    def init_local(self, quiet: bool = False) -> None:
        """Load the model into this process; done again, it changes nothing."""
        self.init_here()
        handle: Any = self._runner_handle
        handle.load()

    def init_client(self, handle_class: Any = None, *args: Any, **options: Any) -> None:
        """Reach the runner in its own process, as BentoML does when a service starts."""
        super().init_client(handle_class or Remote, *args, **options)


def get_runner(
    model_name: str,
    *,
    embedded: bool = False,
    download: DownloadOptions | None = None,
    **options: Any,
) -> Any:
    """Return a runner of a model, which is imported into BentoML's store unless it is there.

    What lies on this machine outside of the store is used where it is.

    Args:
        model_name: Any spelling that `openllm.LLM` takes; NAME=MODEL names the runner.
        embedded: Run the model in the process of the service, and at once wherever the runner is
            used; otherwise BentoML starts a process for it.
        download: How to download; read from the environment if left out.
        options: Fields of `LoadOptions` and `RequestDefaults`, such as top_k, freq_penalty, device.

    Raises:
        TypeError: There is no such option.
        ConfigurationError: The name is wrong or unknown, or a value is wrong.
        EngineNotInstalledError: The engine's package is missing; says what to install.
        OpenLLMError: The download failed; the message says what to do.
    """
    _read_configuration()
    ref = parse_ref(model_name)
    meant = expand(ref)
    runnable = runnable_class(ref)
    settings = _configured(meant.served_name) | runnable.process_cli_args(**options)
    llm = LLM(model_name, download=download, **settings)
    models = [] if meant.kind == "path" else [llm.bentomodel]
    runner = _runner(llm, runnable, models=models, embedded=embedded)
    if embedded:
        runner.init_here()
    return runner


def get_family_runner(family: str, model_name: str = "", **options: Any) -> Any:
    """Return a runner of a family's default model, or of the model named, as `get_runner` does.

    Args:
        family: Its name.
        model_name: The family's name, with a size or not, or any model of it; it cannot be told of
            an id or a path whether it is.
        options: As in `get_runner`.

    Raises:
        ConfigurationError: The model is of another family; and as in `get_runner`.
    """
    variant = families.variant(parse_ref(model_name).source) if model_name else None
    if variant is not None and variant.family is not families.find(family):
        raise ConfigurationError(
            f"{model_name!r} is of the family {variant.family.name}, not of {family}; take"
            " open_llm_server.get_runner, which takes any model."
        )
    return get_runner(model_name or family, **options)


def llm_runner(llm: LLM) -> Any:
    """Return a runner of `llm`, named like its model, usable at once in this process.

    A runner in a process of its own would load the model there while `llm.generate` loads it here.
    """
    _read_configuration()
    runner = _runner(llm, runnable_class(parse_ref(llm.model_id)), models=[], embedded=True)
    runner.init_here()
    return runner


def _runner(llm: LLM, runnable: type[LLMRunnable], **options: Any) -> LLMRunner:
    with _outdated():
        return LLMRunner(
            runnable, runnable_init_params={"llm": llm}, name=_runner_name(llm.name), **options
        )


@contextmanager
def _outdated() -> Iterator[None]:
    """Silence that BentoML's older services will go: we know."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def _read_configuration() -> None:
    """Let BentoML read the file that BENTOML_CONFIGURATION names, here and in its child processes.

    A service of BentoML's current kind puts a configuration of its own, which has no runners, in
    the place of the one for all: it gets them back.

    Raises:
        FileNotFoundError: There is no such file.
        BentoMLConfigException: It is no configuration of BentoML's.
    """
    file = os.environ.get("BENTOML_CONFIGURATION")
    before = BentoMLContainer.config.get()
    if file and "BENTOML_CONFIG" not in os.environ:
        bentoml.load_config(file)
        os.environ["BENTOML_CONFIG"] = file
    elif "runners" not in before:
        bentoml.load_config()
    if "runners" not in before:
        deep_merge(BentoMLContainer.config.get(), before)


def _configured(model: str) -> dict[str, Any]:
    """Return the settings that follow from what the configuration file gives to the runner.

    Its `cpu` are the engine's threads; its GPUs reach the runner's process by the environment.
    """
    runner = BentoMLContainer.config.runners.get().get(_runner_name(model), {})
    cpus = get_resource(runner.get("resources") or {}, "cpu")
    return {"threads": math.ceil(cpus)} if cpus else {}


def _runner_name(model: str) -> str:
    """Return the model's name in the characters that BentoML allows."""
    return re.sub(r"[^-._a-z0-9]+", "-", model.lower()).strip("-._")[:MAX_NAME] or "llm"
