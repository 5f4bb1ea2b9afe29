"""The API process: takes the address, serves the BentoML service, announces that it is ready."""

from __future__ import annotations

import gc
import json
import logging
import os
import shlex
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from openllm.bento.checks import check, fetch
from openllm.bento.listen import listen
from openllm.bento.options import read_configuration
from openllm.bento.preflight import check_memory
from openllm.config.effective import Configuration
from openllm.config.server import ServerSettings
from openllm.errors import ConfigurationError, OpenLLMError
from openllm.types import LocalModel

if TYPE_CHECKING:
    from ssl import SSLContext
    from types import FrameType

    import uvicorn

    from openllm.bento.checks import OnProgress

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
        SystemExit: No model could be loaded.
    """
    if status := run(read_configuration(model, options, os.environ, file=config)):
        sys.exit(status)


def run(configuration: Configuration, on_progress: OnProgress | None = None) -> int:
    """Check all that can be wrong, then serve until a signal; errors as in `start`.

    Models that are not on this machine are downloaded before anything is served.

    Args:
        on_progress: Called as downloads go on, from their threads.

    Returns:
        The exit status: 0 after a signal, else 1, or 2 if the settings of every model are wrong.
    """
    settings = configuration.server
    checked = check(configuration)
    if checked.missing:
        with _listening(settings):
            pass  # An address that is taken shall cost no download.
    models = fetch(configuration, on_progress)
    loads = [entry.config.load for entry in configuration.entries]
    check_memory(list(zip(models, loads, strict=True)))
    with _listening(settings) as sock:
        if not settings.loopback and not settings.keyed:
            logger.warning(
                "anyone who can reach %s can use the models: set --api-key to require a key",
                settings.host,
            )
        if settings.access_log:
            logging.getLogger("openllm.access").setLevel(logging.INFO)
        return _Launch(models, configuration, sock, checked.tls).run()


def _listening(settings: ServerSettings) -> socket.socket:
    return listen(settings.host, settings.port, settings.backlog)


class _Launch:
    def __init__(
        self,
        models: Sequence[LocalModel],
        configuration: Configuration,
        sock: socket.socket,
        tls: SSLContext | None,
    ) -> None:
        from openllm.bento.edge import create_service
        from openllm.fleet import Fleet

        self._models = models
        self._settings = settings = configuration.server
        self._socket = sock
        self._failures: dict[str, OpenLLMError] | None = None
        configs = {entry.name: entry.config for entry in configuration.entries}
        fleet = Fleet(models, configs, max_waiting=settings.max_waiting)
        service = create_service(fleet, settings, self._started, configuration.download)
        self._signals: list[int] = []
        self._server = _server(_uvicorn(service.to_asgi(), settings, tls), self._signals)

    def run(self) -> int:
        self._server.run(sockets=[self._socket])
        if self._failures is not None and not self._ready_names():
            wrong = all(isinstance(each, ConfigurationError) for each in self._failures.values())
            return 2 if wrong else 1
        if self._failures is None and signal.SIGINT in self._signals:
            raise KeyboardInterrupt
        return 0 if self._signals else 1

    def _started(self, failures: dict[str, OpenLLMError]) -> None:
        self._failures = failures
        if names := self._ready_names():
            gc.collect()
            gc.freeze()  # What start-up made stays; collections need not look at it again.
            print(self._ready_line(names), flush=True)
        else:
            self._server.should_exit = True

    def _ready_names(self) -> list[str]:
        failures = self._failures or {}
        return [model.name for model in self._models if model.name not in failures]

    def _ready_line(self, names: Sequence[str]) -> str:
        port = self._socket.getsockname()[1]
        url = base_url(self._settings, port)
        curl = curl_example(url, names[0], keyed=self._settings.keyed)
        if self._settings.port == 0:
            return json.dumps({"ready": url, "port": port, "models": names, "try": curl})
        return f"Ready: {', '.join(names)} at {url} (stop: Ctrl-C). Try: {curl}"


def base_url(settings: ServerSettings, port: int) -> str:
    """Return an URL that reaches the server from this machine."""
    scheme = "https" if settings.ssl_certfile else "http"
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "") else settings.host
    host = "[::1]" if host == "::" else f"[{host}]" if ":" in host else host
    return f"{scheme}://{host}:{port}"


def curl_example(url: str, model: str, *, keyed: bool) -> str:
    """Return a shell command that chats with `model`."""
    body = {"model": model, "messages": [{"role": "user", "content": "Hello! Who are you?"}]}
    key = ' -H "Authorization: Bearer $OPEN_LLM_API_KEY"' if keyed else ""
    data = shlex.quote(json.dumps(body))
    return f"curl {url}/v1/chat/completions -H 'Content-Type: application/json'{key} -d {data}"


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


def _server(config: uvicorn.Config, signals: list[int]) -> uvicorn.Server:
    """Return a server that a signal ends; it adds the signal to `signals`."""
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
            try:
                yield
            finally:
                for each, handler in before.items():
                    signal.signal(each, handler)

    return Server(config)
