"""All that can be wrong with a configuration, found before a socket is bound or a model loaded.

Nothing is downloaded: a model that is not here is looked at once it is.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple

from openllm.bento.grpc_process import check_grpc
from openllm.bento.heeded import options_lacking
from openllm.bento.options import blame
from openllm.bento.preflight import check_models, check_own_files
from openllm.bento.tls import create_tls
from openllm.config.effective import Configuration, Entry, Setting
from openllm.config.explain import together
from openllm.engines import engine_name
from openllm.errors import ConfigurationError, OpenLLMError
from openllm.llm.model_files import fetch_files, find_files, keep, keep_here
from openllm.llm.preprompt import is_like_a_file, preprompt_text
from openllm.models.adapters import adapter_refs, check_names
from openllm.models.ref import parse_ref
from openllm.types import LocalModel

if TYPE_CHECKING:
    from ssl import SSLContext

    from openllm.config.server import ServerSettings
    from openllm.models.pull import Progress

    OnProgress = Callable[[Progress], None]


logger = logging.getLogger("openllm")


class Checked(NamedTuple):
    """What the checks found; `missing` are the models to be downloaded."""

    tls: SSLContext | None
    missing: tuple[Entry, ...]


def check(configuration: Configuration) -> Checked:
    """Check files, engines, keys and certificates.

    Raises:
        ConfigurationError: Something is wrong; the message names all of it.
        OpenLLMError: Else the first thing that is missing, such as an engine's package.
    """
    from openllm.server.guard import Guard

    mistakes = _Mistakes()
    tls: SSLContext | None = None
    missing = _missing(configuration.entries, mistakes)
    with mistakes.of(configuration.settings):
        check_grpc(configuration.server)
    with mistakes.of(configuration.settings):
        tls = create_tls(configuration.server)
    with mistakes.of(configuration.settings):
        Guard(_nobody, configuration.server)
    mistakes.tell()
    return Checked(tls, missing)


def wrong_models(entries: Sequence[Entry]) -> list[str]:
    """Return what `check` finds wrong with the settings of these models."""
    mistakes = _Mistakes()
    _missing(entries, mistakes)
    return mistakes.wrong


def _missing(entries: Sequence[Entry], mistakes: _Mistakes) -> tuple[Entry, ...]:
    """Return the models that are not here; checks all others."""
    missing: list[Entry] = []
    engines: dict[str, str] = {}
    with mistakes.of({}):
        # That no two models have one name was checked before.
        check_names([{entry.name for entry in entries}, *map(_adapter_names, entries)])
    for entry in entries:
        with mistakes.of(entry.settings):
            _check_preprompt(entry)
        with mistakes.of(entry.settings):
            found = find_files(parse_ref(entry.text), entry.config.load)
            if found is None:
                missing.append(entry)
                if backend := entry.config.load.backend:
                    engines[entry.name] = engine_name(backend)
            else:
                [engines[entry.name]] = check_models([found], entry.config)
    mistakes.add(options_lacking(entries, engines))
    return tuple(missing)


def _adapter_names(entry: Entry) -> Iterator[str]:
    """Yield the names of its adapters, as far as those can be read; the rest is told elsewhere."""
    with suppress(ConfigurationError):
        yield from (ref.name for ref in adapter_refs(entry.config.load.lora))


def _check_preprompt(entry: Entry) -> None:
    prompt = entry.config.defaults.prompt
    preprompt_text(prompt)
    if is_like_a_file(prompt):
        logger.warning(
            "%s %r: there is no such file, so these words are the prompt",
            entry.settings["prompt"].origin,
            prompt,
        )


def warn_if_open(settings: ServerSettings) -> None:
    """Warn of a server that others can reach and that asks them for no key."""
    if not settings.loopback and not settings.keyed:
        logger.warning(
            "anyone who can reach %s can use the models: set --api-key to require a key",
            settings.host,
        )


def fetch(
    configuration: Configuration,
    on_progress: OnProgress | None = None,
    cancelled: threading.Event | None = None,
) -> tuple[LocalModel, ...]:
    """Return the models that are configured, downloaded where they are not here.

    Args:
        on_progress: Called as downloads go on, from their threads.
        cancelled: Set from another thread, it stops the download; what has arrived is kept.

    Raises:
        OpenLLMError: A download failed, or what came cannot be used.
    """
    return tuple(fetch_each(configuration, on_progress, cancelled, served=True))


def fetch_each(
    configuration: Configuration,
    on_progress: OnProgress | None = None,
    cancelled: threading.Event | None = None,
    *,
    served: bool = False,
) -> Iterator[LocalModel]:
    """Yield the models as `fetch` does, each once it is here.

    None of them makes room for another: until the last is here, all are kept in the store. Unless
    they are to be `served`, their engines need not be installed.
    """
    with ExitStack() as kept:
        for entry in configuration.entries:
            kept.enter_context(keep_here(parse_ref(entry.text), entry.config.load))
        for entry in configuration.entries:
            model = _fetched(entry, on_progress, cancelled, served=served)
            kept.enter_context(keep(model))
            yield model


def _fetched(
    entry: Entry,
    on_progress: OnProgress | None,
    cancelled: threading.Event | None,
    *,
    served: bool,
) -> LocalModel:
    load = entry.config.load
    ref = parse_ref(entry.text)
    here = find_files(ref, load) is not None
    model = fetch_files(
        ref,
        load,
        entry.download,
        installed=served,
        on_progress=on_progress,
        cancelled=cancelled,
    )
    if not here:
        (check_models if served else check_own_files)([model], entry.config)
    return model


class _Mistakes:
    """Gathers errors; those of settings are told together."""

    def __init__(self) -> None:
        self.wrong: list[str] = []
        self._others: list[OpenLLMError] = []

    @contextmanager
    def of(self, settings: Mapping[str, Setting]) -> Iterator[None]:
        try:
            yield
        except ConfigurationError as error:
            self.wrong.append(blame(error, settings))
        except OpenLLMError as error:
            self._others.append(error)

    def add(self, wrong: Iterable[str]) -> None:
        self.wrong += wrong

    def tell(self) -> None:
        if self.wrong:
            raise ConfigurationError(together(self.wrong))
        if self._others:
            raise self._others[0]


async def _nobody(scope: object, receive: object, send: object) -> None:
    raise NotImplementedError
