"""From the text that names a model to its files on this machine, fetched if they are not here.

Names, layouts and the store are `openllm.models`' affair; which engine a download is for is told
here, before its first byte of weights, so that what cannot run is not fetched.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from openllm.config.model import LoadOptions
from openllm.engines import engine_name
from openllm.errors import ConfigurationError
from openllm.llm.choice import choose_by_facts
from openllm.models.locate import defaults_of, expand, find_local, from_store
from openllm.models.pull_pins import check_pin
from openllm.models.ref import ModelRef, bad_name, is_model_name, parse_ref
from openllm.models.registry import REGISTRY, Registry
from openllm.models.store import StoredModel, add, derived_tag, find_tag, told, touch
from openllm.models.tags import framework_name
from openllm.types import LocalModel, ModelFormat

if TYPE_CHECKING:
    from openllm.config.download import DownloadOptions
    from openllm.models.pull import Framework, Progress

    OnProgress = Callable[[Progress], None]

logger = logging.getLogger("openllm")


def local_model(
    text: str | ModelRef,
    options: DownloadOptions | None = None,
    *,
    registry: Registry = REGISTRY,
    backend: str | None = None,
    trust_remote_code: bool = False,
    installed: bool = True,
    on_progress: OnProgress | None = None,
    cancelled: threading.Event | None = None,
) -> LocalModel:
    """Return the model that `text` names, downloaded into the store unless it is here.

    Blocks. What is here is found without any network call.

    Args:
        text: Any spelling that `openllm.models.ref` lists.
        options: How to download; read from the environment if left out.
        registry: Where names are looked up.
        backend: The engine it is for; that of its family, its format and architecture if left out.
        trust_remote_code: Take a model that needs Python code from its own folder.
        installed: Download only what an engine that is installed here runs.
        on_progress: Called as the download goes on, from its threads.
        cancelled: Set from another thread, it stops the download; what has arrived is kept.

    Raises:
        ConfigurationError: The text is wrong, the name unknown, or no engine runs the model.
        EngineNotInstalledError: The engine's package is missing; nothing was downloaded.
        ModelFileError: The model is here, and its hash is not the one that the options ask for.
        OpenLLMError: The download failed; the message says what to do.
    """
    ref = parse_ref(text) if isinstance(text, str) else text
    backend = backend or _own_backend(ref, registry)
    found = find_local(ref, registry)
    if found is not None:
        check_hash(found, options)
    if found is None:
        load = LoadOptions(backend=backend, trust_remote_code=trust_remote_code)
        meant = expand(ref, registry)
        framework = partial(framework_of, meant.served_name, load, installed=installed)
        found = _pulled(meant, options, framework, on_progress, cancelled)
    elif found.tag and (model := find_tag(found.tag)):
        touch(model)
    return for_engine(found, engine_name(backend)) if backend else found


def check_hash(model: LocalModel, options: DownloadOptions | None) -> None:
    """Check a model that is here by the hash that `options` ask for, if they do; reads no file.

    Raises:
        ModelFileError: The one recorded in the store is another.
        ConfigurationError: The model is in no store.
    """
    if options is None or options.sha256 is None:
        return
    known = find_tag(model.tag) if model.tag else None
    if known is None:
        raise ConfigurationError(
            f"--sha256 is for models that are downloaded, and {model.name!r} is {model.path}; leave"
            " it out, or check the file with sha256sum",
            param="sha256",
        )
    check_pin(known, options)


def known_ref(text: str, registry: Registry = REGISTRY) -> ModelRef:
    """Parse the text of one model, whose name must be known and be one that requests can use.

    Raises:
        ConfigurationError: It is wrong or unknown.
        ModelFileError: It is a path where no model lies.
    """
    ref = parse_ref(text)
    meant = expand(ref, registry)
    if meant.kind == "path":
        find_local(ref, registry)
    if not is_model_name(meant.served_name):
        raise bad_name(meant.served_name, meant.source)
    return ref


def for_engine(model: LocalModel, engine: str) -> LocalModel:
    """Return `model` under the tag derived for `engine`; stored twice, its files are linked.

    A model that was not downloaded into the store stays as it is, and so does one in a store that
    cannot be written, which is as good to load.
    """
    known = find_tag(model.tag) if model.tag else None
    tag = derived_tag(known, framework_name(engine)) if known else ""
    if known is None or tag in ("", known.tag):
        return model
    try:
        return store_as(model, known, *tag.split(":"))
    except ConfigurationError as error:
        logger.info("%s is not stored as %s: %s", known.tag, tag, error)
        return model


def store_as(model: LocalModel, known: StoredModel, name: str, version: str) -> LocalModel:
    """Link the files of the stored model `known` into "name:version" too; returns that one.

    Raises:
        ConfigurationError: Another model has this tag, or the store cannot be written.
        ModelFileError: A file is missing.
    """
    with told(Path(known.folder)):
        linked = add(known.folder, known, name=name, version=version)
    return from_store(ModelRef(known.source, model.name), linked)


def framework_of(
    name: str, load: LoadOptions, architecture: str, form: ModelFormat, *, installed: bool = True
) -> str:
    """Return what the tag of a download begins with: the name of the engine that will run it.

    Args:
        name: Of the model, for messages.
        load: Of these, the engine asked for and whether the model's own code is trusted count.
        architecture: As the model's `config.json` names it, "" where it has none.
        form: What its files are.
        installed: Whether the engine must be installed here.

    Raises:
        ConfigurationError: The engine asked for is unknown, or none runs the model.
        EngineNotInstalledError: Its package is missing; says what to install.
    """
    choice = choose_by_facts(name, form, architecture, load, installed=installed)
    return framework_name(choice.name)


def _pulled(
    ref: ModelRef,
    options: DownloadOptions | None,
    framework: Framework,
    on_progress: OnProgress | None,
    cancelled: threading.Event | None,
) -> LocalModel:
    from openllm.config.download import DownloadOptions
    from openllm.models.pull import pull

    model = pull(
        ref,
        options or DownloadOptions(),
        framework=framework,
        on_progress=on_progress,
        cancelled=cancelled,
    )
    return from_store(ref, model)


def _own_backend(ref: ModelRef, registry: Registry) -> str | None:
    backend = defaults_of(ref, registry).get("backend")
    return backend if isinstance(backend, str) else None
