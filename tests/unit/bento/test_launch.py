from __future__ import annotations

from pathlib import Path
from typing import Any

from openllm.bento.launch import _uvicorn
from openllm.bento.tls import create_tls
from openllm.config.server import ServerSettings


async def app(scope: Any, receive: Any, send: Any) -> None:
    raise NotImplementedError


def test_settings_reach_the_server(pems: Path) -> None:
    settings = ServerSettings(
        backlog=7, timeout_keep_alive=8, timeout_graceful_shutdown=9, ssl_certfile=pems / "both.pem"
    )
    tls = create_tls(settings)
    config = _uvicorn(app, settings, tls)
    assert config.ssl is tls is not None
    assert (config.backlog, config.timeout_keep_alive) == (7, 8)
    assert config.timeout_graceful_shutdown == 9


def test_plain_http_has_no_tls() -> None:
    assert _uvicorn(app, ServerSettings(), None).ssl is None
