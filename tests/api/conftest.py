"""A server over loopback with scripted models in this process, and clients for it."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
import uvicorn
from msgspec.structs import replace

from openllm.bento.edge import Front
from openllm.bento.listen import listen
from openllm.config.model import LoadOptions, ModelConfig, RequestDefaults
from openllm.config.server import ServerSettings
from openllm.engines.scripted_engine import ScriptedEngine
from openllm.errors import ModelNotFoundError
from openllm.fleet import ModelStatus
from openllm.fleet.measures import ModelMeasures, ModelReport
from openllm.server.protocol import HttpProtocol
from openllm.types import CompletionChunk, EmbeddingOutput, GenerateRequest, LocalModel, Prompt

TEXT = "one two three four five six"
SCRIPT: dict[str, Any] = {
    "context_length": 512,
    "rules": [
        {"match": "^long$", "reply": "word ", "repeat": 100},
        {"match": "^slow$", "reply": "word ", "repeat": 400},
        {"match": "^broken$", "reply": "a b", "faults": [{"kind": "error", "message": "no"}]},
        {
            "match": "^breaks$",
            "reply": TEXT,
            "faults": [{"kind": "error", "message": "gone", "after_tokens": 3}],
        },
        {"match": "^odd$", "reply": 'tab\t \u2028line\u2029 \u0085 \r\n é日本👩‍👩‍👧‍👦\ufffd"\\'},
        {"match": "^sample$", "distribution": {" a": 0.4, " b": 0.3, " c": 0.3}, "length": 20},
    ],
    "default": {"reply": TEXT},
}


class ScriptedFleet:
    """The fleet's contract over scripted engines in this process; conversations become ChatML."""

    ready = True

    def __init__(self, engines: dict[str, ScriptedEngine], defaults: RequestDefaults) -> None:
        self.engines = engines
        self._defaults = defaults

    async def start(self) -> None:
        for engine in self.engines.values():
            await engine.start()

    async def close(self) -> None:
        for engine in self.engines.values():
            await engine.close()

    def statuses(self) -> tuple[ModelStatus, ...]:
        return tuple(map(self.status, self.engines))

    def status(self, name: str) -> ModelStatus:
        return ModelStatus(
            name=name,
            state="ready",
            created=1_700_000_000,
            capabilities=self.engines[name].capabilities,
            fingerprint="fp_test",
        )

    def reports(self) -> tuple[ModelReport, ...]:
        return tuple(
            ModelReport(
                name=each.name, state=each.state, running=0, waiting=0, measures=ModelMeasures()
            )
            for each in self.statuses()
        )

    def defaults(self, _: str) -> RequestDefaults:
        return self._defaults

    def find(self, name: str) -> ServedHere:
        return ServedHere(self, name)

    def resolve(self, name: str | None) -> str:
        if not name:
            return next(iter(self.engines))
        if name not in self.engines:
            raise ModelNotFoundError(f"model {name!r} is not served here", param="model")
        return name

    async def generate(
        self, name: str, request: GenerateRequest
    ) -> AsyncGenerator[CompletionChunk, None]:
        if request.messages:
            turns = [
                f"<|im_start|>{each.role}\n{each.content}<|im_end|>\n" for each in request.messages
            ]
            prompt = "".join(turns) + "<|im_start|>assistant\n"
            request = replace(request, messages=(), prompt=prompt)
        async with aclosing(self.engines[name].generate(request)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def embed(self, name: str, inputs: Sequence[Prompt]) -> EmbeddingOutput:
        return await self.engines[name].embed(inputs)

    async def tokenize(self, name: str, text: str, *, special: bool) -> list[int]:
        return await self.engines[name].tokenize(text, special=special)

    async def detokenize(self, name: str, token_ids: Sequence[int]) -> str:
        return await self.engines[name].detokenize(token_ids)


class ServedHere:
    """A model of such a fleet, which works only while it is held."""

    def __init__(self, fleet: ScriptedFleet, name: str) -> None:
        self._fleet = fleet
        self._name = name
        self._held = False
        self.config = ModelConfig(defaults=fleet.defaults(name))

    def status(self, name: str = "") -> ModelStatus:
        return self._fleet.status(name or self._name)

    def adapter(self, name: str) -> str:
        return "" if name == self._name else name

    @contextmanager
    def hold(self) -> Iterator[None]:
        self._held = True
        yield
        self._held = False

    def generate(self, request: GenerateRequest) -> AsyncGenerator[CompletionChunk, None]:
        assert self._held
        return self._fleet.generate(self._name, request)

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        assert self._held
        return await self._fleet.detokenize(self._name, token_ids)


def scripted_engine(folder: Path, name: str, **changes: Any) -> ScriptedEngine:
    path = folder / f"{name}.script.json"
    path.write_text(json.dumps({**SCRIPT, **changes}))
    model = LocalModel(name=name, path=str(path), format="script")
    return ScriptedEngine(model, LoadOptions(max_concurrency=16, embeddings=name != "mute"))


class Server:
    """What tests know of a running server."""

    def __init__(self, front: Front, port: int, loop: asyncio.AbstractEventLoop) -> None:
        self.front = front
        self.fleet: Any = front.fleet
        self.port = port
        self.loop = loop
        self.url = f"http://127.0.0.1:{port}"

    def sdk(self, prefix: str = "/v1", **options: Any) -> openai.AsyncOpenAI:
        options = {"max_retries": 0, "timeout": 30, **options}
        return openai.AsyncOpenAI(base_url=self.url + prefix, api_key="EMPTY", **options)

    def http(self) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(base_url=self.url, timeout=30, verify=False)


@contextmanager
def running(fleet: Any, settings: ServerSettings | None = None) -> Iterator[Server]:
    """Serve `fleet` on a free loopback port from a thread with a loop of its own."""
    settings = settings or ServerSettings()
    sock = listen("127.0.0.1", 0, 128)
    ready = threading.Event()
    held: dict[str, Any] = {}

    async def main() -> None:
        await fleet.start()
        held["front"] = Front(fleet, settings)
        config = uvicorn.Config(
            held["front"],
            http=HttpProtocol,
            lifespan="off",
            log_config=None,
            timeout_graceful_shutdown=2,
        )
        held["server"] = uvicorn.Server(config)
        held["loop"] = asyncio.get_running_loop()
        ready.set()
        await held["server"].serve(sockets=[sock])
        await fleet.close()

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    assert ready.wait(120)
    try:
        yield Server(held["front"], sock.getsockname()[1], held["loop"])
    finally:
        held["server"].should_exit = True
        thread.join(60)
        assert not thread.is_alive()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Models "demo" (fast), "slow" (50 tokens a second), "reading" (1 prompt token a second) and
    "mute" (no embeddings)."""
    folder = tmp_path_factory.mktemp("scripts")
    engines = {
        "demo": scripted_engine(folder, "demo"),
        "slow": scripted_engine(folder, "slow", tokens_per_second=50),
        "reading": scripted_engine(folder, "reading", prefill_tokens_per_second=1),
        "mute": scripted_engine(folder, "mute"),
    }
    with running(ScriptedFleet(engines, RequestDefaults())) as server:
        yield server


@pytest.fixture
async def sdk(server: Server) -> AsyncIterator[openai.AsyncOpenAI]:
    async with server.sdk() as client:
        yield client


@pytest.fixture
async def http(server: Server) -> AsyncIterator[httpx2.AsyncClient]:
    async with server.http() as client:
        yield client


class StubFleet(ScriptedFleet):
    """One model, "stub", whose chunks are what `produce` yields."""

    def __init__(self, produce: Callable[[], AsyncIterator[CompletionChunk]]) -> None:
        self.produce = produce
        self.open = 0
        self.state: Any = "ready"

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    @property
    def ready(self) -> bool:  # type: ignore[override]
        return bool(self.state == "ready")

    def statuses(self) -> tuple[ModelStatus, ...]:
        return (self.status("stub"),)

    def status(self, name: str) -> ModelStatus:
        return ModelStatus(name="stub", state=self.state, created=1, fingerprint="fp_stub")

    def defaults(self, _: str) -> RequestDefaults:
        return RequestDefaults()

    def resolve(self, name: str | None) -> str:
        return "stub"

    async def generate(
        self, name: str, request: GenerateRequest
    ) -> AsyncGenerator[CompletionChunk, None]:
        self.open += 1
        try:
            async for chunk in self.produce():
                yield chunk
        finally:
            self.open -= 1

    async def embed(self, name: str, inputs: Sequence[Prompt]) -> EmbeddingOutput:
        async for _ in self.generate(name, None):  # type: ignore[arg-type]
            pass
        return EmbeddingOutput((b"\0\0\0\0",), 1)


def chat(text: str = "hi", **fields: Any) -> dict[str, Any]:
    """Return the body of a chat request."""
    return {"model": "demo", "messages": [{"role": "user", "content": text}], **fields}
