from __future__ import annotations

import asyncio
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import openllm
from openllm.bento.early_signals import EarlySignals, EndedEarly
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


def test_sigterm_before_anything_is_served_ends_where_it_is() -> None:
    before = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGHUP)]
    early = EarlySignals()
    with pytest.raises(EndedEarly) as raised, early.handled():
        signal.raise_signal(signal.SIGTERM)
    assert raised.value.code == 0
    assert raised.value.line.startswith("Ended by SIGTERM: what has been downloaded is kept;")
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGHUP)] == before


@pytest.mark.parametrize(("gone", "ends"), [(False, False), (True, True)])
def test_sighup_is_remembered_unless_the_terminal_is_gone(
    gone: bool, ends: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.isatty", lambda _: True)
    early = EarlySignals()
    monkeypatch.setattr("os.isatty", lambda _: not gone)
    ended = False
    with early.handled():
        try:
            signal.raise_signal(signal.SIGHUP)
        except EndedEarly:
            ended = True
    assert (ended, early.hung_up) == (ends, not ends)


def test_it_starts_only_where_signals_and_an_event_loop_can_be_had() -> None:
    async def here() -> None:
        openllm.start("demo", port=0)

    with pytest.raises(RuntimeError, match="an event loop runs already, as in a notebook"):
        asyncio.run(here())
    with (
        ThreadPoolExecutor(1, "mine") as pool,
        pytest.raises(RuntimeError, match=r"in the thread 'mine_0', .* `openllm start`, as a proc"),
    ):
        pool.submit(openllm.start, "demo", port=0).result()


def test_plain_http_has_no_tls() -> None:
    assert _uvicorn(app, ServerSettings(), None).ssl is None
