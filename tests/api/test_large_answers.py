"""Large answers are made beside the event loop, which goes on with the streams of others."""

from __future__ import annotations

import asyncio
import importlib
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.api.conftest import Server, chat

pytestmark = [pytest.mark.anyio, pytest.mark.reliability("F-21")]

MANY = {"model": "demo", "input": ["hi"] * 2048}


@pytest.mark.parametrize(
    ("path", "body", "work"),
    [
        ("/v1/embeddings", {**MANY, "dimensions": 3}, "openai_embeddings.shortened"),
        ("/v1/embeddings", MANY, "openai_embeddings.shortened"),
        ("/embed", MANY, "native_api.encode_vector"),
        (
            "/v1/chat/completions",
            chat("long", logprobs=True, top_logprobs=20),
            "openai_api.whole_answer",
        ),
        ("/v1/completions", {"prompt": "long", "logprobs": 20}, "openai_api.whole_answer"),
    ],
)
async def test_they_leave_the_event_loop(
    server: Server,
    http: Any,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    body: dict[str, Any],
    work: str,
) -> None:
    threads: set[threading.Thread] = set()
    module, _, name = work.partition(".")
    real: Callable[..., Any] = getattr(importlib.import_module(f"openllm.server.{module}"), name)

    def noted(*arguments: Any, **options: Any) -> Any:
        threads.add(threading.current_thread())
        return real(*arguments, **options)

    monkeypatch.setattr(f"openllm.server.{work}", noted)
    assert (await http.post(path, json=body)).status_code == 200
    asking = asyncio.run_coroutine_threadsafe(_thread(), server.loop)
    assert threads
    assert await asyncio.wrap_future(asking) not in threads


async def _thread() -> threading.Thread:
    return threading.current_thread()
