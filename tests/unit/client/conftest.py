from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import open_llm_client
from tests.unit.client.loopback_peer import Peer


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPEN_LLM_API_KEY", raising=False)


@pytest.fixture(scope="session")
def _running_peer() -> Iterator[Peer]:
    peer = Peer()
    peer.start()
    yield peer
    peer.stop()


@pytest.fixture
def peer(_running_peer: Peer) -> Peer:
    _running_peer.reset()
    return _running_peer


def _blocking(url: str, method: str, *args: Any, options: dict[str, Any], **call: Any) -> Any:
    with open_llm_client.create(url, **options) as client:
        answer = getattr(client, method)(*args, **call)
        return list(answer) if call.get("stream") else answer


def _awaited(url: str, method: str, *args: Any, options: dict[str, Any], **call: Any) -> Any:
    async def main() -> Any:
        async with open_llm_client.create_async(url, **options) as client:
            answer = getattr(client, method)(*args, **call)
            return [piece async for piece in answer] if call.get("stream") else await answer

    return asyncio.run(main())


def _awaited_of_client(
    url: str, method: str, *args: Any, options: dict[str, Any], **call: Any
) -> Any:
    with open_llm_client.create(url, **options) as client:

        async def main() -> Any:
            answer = getattr(client, f"async_{method}")(*args, **call)
            return [piece async for piece in answer] if call.get("stream") else await answer

        return asyncio.run(main())


@pytest.fixture(params=[_blocking, _awaited, _awaited_of_client], ids=lambda call: call.__name__)
def call(request: pytest.FixtureRequest, peer: Peer) -> Callable[..., Any]:
    """Call a method of the client (`options` are those of `create`) in each of its forms."""

    def run(method: str, *args: Any, options: dict[str, Any] | None = None, **call: Any) -> Any:
        return request.param(peer.url, method, *args, options=options or {}, **call)

    return run
