"""The API process: takes the address, serves the BentoML service, announces that it is ready."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from openllm.bento.ahead import check_ahead
from openllm.bento.checks import check, fetch, warn_if_open
from openllm.bento.early_signals import EarlySignals
from openllm.bento.grpc_process import GrpcProcess
from openllm.bento.listen import listen
from openllm.bento.options import read_configuration
from openllm.bento.preflight import check_memory, check_memory_ahead
from openllm.bento.ready import announce, end_of_log, ready_line
from openllm.config.effective import Configuration
from openllm.config.flags import as_argument
from openllm.config.server import ServerSettings
from openllm.errors import ConfigurationError, OpenLLMError
from openllm.models.offers import asked_once
from openllm.types import LocalModel

if TYPE_CHECKING:
    from ssl import SSLContext
    from types import FrameType

    import uvicorn

    from openllm.bento.checks import OnProgress
    from openllm.bento.reload import Apply, Read

logger = logging.getLogger("openllm")


def start(model: str | None = None, config: str | None = None, **options: object) -> None:
    """Serve models from Python; blocks until a signal ends the server.

    The environment and the configuration file count as they do for `openllm start`.

    Args:
        model: Models separated by commas, or a configuration file, as `openllm start` takes them;
            without one what the environment or the file names, or else the bundled model.
        config: The configuration file.
        options: Fields of `ServerSettings`, `LoadOptions`, `RequestDefaults` and `DownloadOptions`;
            "NAME.FIELD" is for one model.

    Raises:
        ConfigurationError: A model or an option is wrong; nothing was started.
        EngineNotInstalledError: A model needs a package that is missing; nothing was started.
        OpenLLMError: A download failed; nothing was started.
        KeyboardInterrupt: Ctrl-C before any model was ready.
        RuntimeError: This is not the main thread, or an event loop runs in it.
        SystemExit: No model could be loaded, or a signal came before anything was served.
    """
    _check_thread()
    if not isinstance(model, str | None) or not isinstance(config, str | None):
        wrong = config if isinstance(model, str | None) else model
        raise ConfigurationError(
            f"openllm.start takes models and a file as text, not {wrong!r}; write 'demo,llama'"
        )
    read = partial(read_configuration, model, options, os.environ, file=config, origin=as_argument)
    if status := run(read(), read):
        sys.exit(status)


def _check_thread() -> None:
    """Check that this thread can run an event loop of its own, and that signals reach it."""
    if threading.current_thread() is not threading.main_thread():
        where = f"in the thread {threading.current_thread().name!r}"
    elif asyncio._get_running_loop() is not None:
        where = "where an event loop runs already, as in a notebook"
    else:
        return
    raise RuntimeError(
        f"openllm.start was called {where}, and it serves in the main thread until a signal ends"
        " it; run it, or `openllm start`, as a process of its own, or use models by openllm.LLM"
    )


def run(configuration: Configuration, read: Read, on_progress: OnProgress | None = None) -> int:
    """Check all that can be wrong, then serve until a signal; errors as in `start`.

    Models that are not on this machine are downloaded before anything is served. SIGHUP has the
    configuration read again.

    Args:
        read: Returns the configuration as it is then.
        on_progress: Called as downloads go on, from their threads.

    Returns:
        The exit status: 0 after a signal, else 1, or 2 if the settings of every model are wrong.

    Raises:
        EndedEarly: A signal came before anything was served.
    """
    early = EarlySignals()
    with early.handled():
        return _run(configuration, read, on_progress, early)


def _run(
    configuration: Configuration, read: Read, on_progress: OnProgress | None, early: EarlySignals
) -> int:
    settings = configuration.server
    checked = check(configuration)
    warned = False
    with asked_once():
        if checked.missing:
            with _listening(settings):
                pass  # An address that is taken shall cost no download.
            check_ahead(configuration)
            warned = check_memory_ahead(configuration.entries)
        models = fetch(configuration, on_progress)
    loads = [entry.config.load for entry in configuration.entries]
    check_memory(list(zip(models, loads, strict=True)), warned=warned)
    with _listening(settings) as sock:
        warn_if_open(settings)
        try:
            launch = _Launch(models, configuration, sock, checked.tls, read, on_progress, early)
            return launch.run()
        finally:
            end_of_log()


def _listening(settings: ServerSettings) -> socket.socket:
    return listen(settings.host, settings.port, settings.backlog)


class _Launch:
    def __init__(
        self,
        models: Sequence[LocalModel],
        configuration: Configuration,
        sock: socket.socket,
        tls: SSLContext | None,
        read: Read,
        on_progress: OnProgress | None,
        early: EarlySignals,
    ) -> None:
        from openllm.bento.edge import Front, create_app
        from openllm.bento.reload import Reload
        from openllm.fleet import Fleet

        self._models = models
        self._settings = settings = configuration.server
        self._socket = sock
        self._failures: dict[str, OpenLLMError] | None = None
        configs = {entry.name: entry.config for entry in configuration.entries}
        fleet = Fleet(
            models,
            configs,
            max_waiting=settings.max_waiting,
            perplexity=settings.perplexity,
            load_timeout=settings.load_timeout,
        )
        self._signals: list[int] = []
        self._early = early
        self._server: uvicorn.Server | GrpcProcess
        if settings.grpc:
            self._server = GrpcProcess(
                fleet, settings, tls, self._started, self._signals, self._hung_up
            )
            apply: Apply = self._server.apply
        else:
            front = Front(fleet, settings, configuration.download)
            app = create_app(front, self._started)
            self._server = _server(_uvicorn(app, settings, tls), self._signals, self._hung_up)
            apply = front.apply
        self._reload = Reload(configuration, read, fleet, apply, on_progress)

    def run(self) -> int:
        self._server.run(sockets=[self._socket])
        if self._failures is not None and not self._ready_names():
            wrong = all(isinstance(each, ConfigurationError) for each in self._failures.values())
            return 2 if wrong else 1
        if self._failures is None and signal.SIGINT in self._signals:
            raise KeyboardInterrupt
        return 0 if self._signals else 1

    async def _started(self, failures: dict[str, OpenLLMError]) -> None:
        self._failures = failures
        if names := self._ready_names():
            gc.collect()
            gc.freeze()  # What start-up made stays; collections need not look at it again.
            announce(ready_line(self._settings, self._socket.getsockname()[1], names))
            if self._early.hung_up:
                self._reload.ask()
            await self._reload.run()
        else:
            self._server.should_exit = True

    def _hung_up(self) -> None:
        """Take SIGHUP: a new configuration, or the end of the terminal we were started in."""
        if self._early.left_alone():
            self._server.handle_exit(signal.SIGHUP, None)
        else:
            self._reload.ask()

    def _ready_names(self) -> list[str]:
        failures = self._failures or {}
        return [model.name for model in self._models if model.name not in failures]


def _uvicorn(app: Any, settings: ServerSettings, tls: SSLContext | None) -> uvicorn.Config:
    import uvicorn

    from openllm.server.protocol import HttpProtocol

    config = uvicorn.Config(
        app,
        http=HttpProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=settings.backlog,
        timeout_keep_alive=settings.timeout_keep_alive,
        timeout_graceful_shutdown=settings.timeout_graceful_shutdown,
    )
    config.load()
    config.ssl = tls
    return config


def _server(
    config: uvicorn.Config, signals: list[int], on_hang_up: Callable[[], None]
) -> uvicorn.Server:
    """Return a server that a signal ends; it adds the signal to `signals`.

    SIGHUP calls `on_hang_up` from the event loop instead.
    """
    import uvicorn

    class Server(uvicorn.Server):
        """Returns after a signal; uvicorn's own raises the signal again at the end."""

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            signals.append(sig)
            super().handle_exit(sig, frame)

        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            handled = (signal.SIGINT, signal.SIGTERM)
            before = {each: signal.signal(each, self.handle_exit) for each in handled}
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGHUP, on_hang_up)
            try:
                yield
            finally:
                loop.remove_signal_handler(signal.SIGHUP)
                for each, handler in before.items():
                    signal.signal(each, handler)

    return Server(config)
