"""The API process: takes the address, serves the BentoML service, announces that it is ready."""

from __future__ import annotations

import gc
import json
import logging
import shlex
import signal
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from openllm.bento.listen import listen
from openllm.bento.options import split_options
from openllm.bento.preflight import check_models
from openllm.bento.tls import create_tls
from openllm.config.model import ModelConfig
from openllm.config.server import ServerSettings
from openllm.errors import ConfigurationError, OpenLLMError
from openllm.models.ref import parse_models
from openllm.types import LocalModel

if TYPE_CHECKING:
    from ssl import SSLContext
    from types import FrameType

    import uvicorn

logger = logging.getLogger("openllm")


def start(model: str = "demo", **options: object) -> None:
    """Serve models from Python; blocks until a signal ends the server.

    Args:
        model: Names or files separated by commas, as `openllm start` takes them.
        options: Fields of `ServerSettings`, `LoadOptions` and `RequestDefaults`.

    Raises:
        ConfigurationError: A model or an option is wrong; nothing was started.
        EngineNotInstalledError: A model needs a package that is missing; nothing was started.
        KeyboardInterrupt: Ctrl-C before any model was ready.
        SystemExit: No model could be loaded.
    """
    if status := run(model, options):
        sys.exit(status)


def run(model: str, options: Mapping[str, object]) -> int:
    """Check all that can be wrong, then serve until a signal; arguments and errors as in `start`.

    Returns:
        The exit status: 0 after a signal, else 1, or 2 if the settings of every model are wrong.
    """
    settings, config = split_options(options)
    models = parse_models(model)
    check_models(models, config)
    tls = create_tls(settings)
    with listen(settings.host, settings.port, settings.backlog) as sock:
        if not settings.loopback and not settings.keyed:
            logger.warning(
                "anyone who can reach %s can use the models: set --api-key to require a key",
                settings.host,
            )
        if settings.access_log:
            logging.getLogger("openllm.access").setLevel(logging.INFO)
        return _Launch(models, config, settings, sock, tls).run()


class _Launch:
    def __init__(
        self,
        models: Sequence[LocalModel],
        config: ModelConfig,
        settings: ServerSettings,
        sock: socket.socket,
        tls: SSLContext | None,
    ) -> None:
        from openllm.bento.edge import create_service
        from openllm.fleet import Fleet

        self._models = models
        self._settings = settings
        self._socket = sock
        self._failures: dict[str, OpenLLMError] | None = None
        configs = {model.name: config for model in models}
        fleet = Fleet(models, configs, max_waiting=settings.max_waiting)
        service = create_service(fleet, settings, self._started)
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
