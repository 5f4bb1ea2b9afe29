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
from openllm.config.model import ModelConfig
from openllm.config.server import ServerSettings
from openllm.errors import OpenLLMError
from openllm.types import LocalModel

if TYPE_CHECKING:
    import uvicorn

logger = logging.getLogger("openllm")


def serve(
    models: Sequence[LocalModel],
    configs: Mapping[str, ModelConfig],
    settings: ServerSettings,
) -> int:
    """Serve until a signal ends it; return the exit status, 1 if no model could be loaded.

    Raises:
        ConfigurationError: The address is taken or cannot be bound.
    """
    sock = listen(settings.host, settings.port, settings.backlog)
    if not settings.loopback and not settings.keyed:
        logger.warning(
            "anyone who can reach %s can use the models: set --api-key to require a key",
            settings.host,
        )
    if settings.access_log:
        logging.getLogger("openllm.access").setLevel(logging.INFO)
    return _Launch(models, configs, settings, sock).run()


class _Launch:
    def __init__(
        self,
        models: Sequence[LocalModel],
        configs: Mapping[str, ModelConfig],
        settings: ServerSettings,
        sock: socket.socket,
    ) -> None:
        from openllm.bento.edge import create_service
        from openllm.fleet import Fleet

        self._models = models
        self._settings = settings
        self._socket = sock
        self._status = 0
        fleet = Fleet(models, configs, max_waiting=settings.max_waiting)
        service = create_service(fleet, settings, self._started)
        self._server = _uvicorn(service.to_asgi(), settings)

    def run(self) -> int:
        self._server.run(sockets=[self._socket])
        return self._status

    def _started(self, failures: dict[str, OpenLLMError]) -> None:
        names = [model.name for model in self._models if model.name not in failures]
        if names:
            gc.collect()
            gc.freeze()  # What start-up made stays; collections need not look at it again.
            print(self._ready_line(names), flush=True)
        else:
            self._status = 1
            self._server.should_exit = True

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


def _uvicorn(app: Any, settings: ServerSettings) -> uvicorn.Server:
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
        timeout_keep_alive=settings.timeout_keep_alive,
        timeout_graceful_shutdown=settings.timeout_graceful_shutdown,
        ssl_certfile=settings.ssl_certfile,
        ssl_keyfile=settings.ssl_keyfile,
        ssl_keyfile_password=settings.ssl_keyfile_password,
        ssl_ca_certs=str(settings.ssl_ca_certs) if settings.ssl_ca_certs else None,
        **_set_only(
            ssl_version=settings.ssl_version,
            ssl_cert_reqs=settings.ssl_cert_reqs,
            ssl_ciphers=settings.ssl_ciphers,
        ),
    )
    return _server(config)


def _server(config: uvicorn.Config) -> uvicorn.Server:
    import uvicorn

    class Server(uvicorn.Server):
        """Ends with status 0 on a signal; uvicorn's own raises the signal again at the end."""

        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            signals = (signal.SIGINT, signal.SIGTERM)
            before = {each: signal.signal(each, self.handle_exit) for each in signals}
            try:
                yield
            finally:
                for each, handler in before.items():
                    signal.signal(each, handler)

    return Server(config)


def _set_only(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def start(model: str = "demo", **options: object) -> None:
    """Serve models from Python; blocks until a signal ends the server.

    Args:
        model: Names or files separated by commas, as `openllm start` takes them.
        options: Fields of `ServerSettings`, `LoadOptions` and `RequestDefaults`.

    Raises:
        ConfigurationError: A model or an option is wrong; nothing was started.
        SystemExit: No model could be loaded.
    """
    from openllm.bento.options import split_options
    from openllm.models.ref import check_files, parse_models

    settings, config = split_options(options)
    models = parse_models(model)
    for each in models:
        check_files(each)
    if status := serve(models, {each.name: config for each in models}, settings):
        sys.exit(status)
