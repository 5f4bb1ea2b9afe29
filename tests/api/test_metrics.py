"""GET /metrics of a fleet whose runners are scripted engines in this process."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)
from prometheus_client.parser import text_string_to_metric_families

from openllm import __version__
from openllm.config.model import LoadOptions, ModelConfig
from openllm.config.server import ServerSettings
from openllm.fleet import Fleet
from openllm.llm.chat_engine import ChatEngine
from openllm.types import (
    Capabilities,
    CompletionChunk,
    EmbeddingOutput,
    GenerateRequest,
    LocalModel,
    Prompt,
)
from tests.api.conftest import Server, chat, running, scripted_engine

pytestmark = pytest.mark.anyio

Samples = dict[str, float]


class RunnerHere:
    """A runner's door without a process."""

    def __init__(self, model: LocalModel, config: ModelConfig) -> None:
        loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[None] = loop.create_future()
        self.died: asyncio.Future[str] = loop.create_future()
        self._engine = ChatEngine(model, config)

    @property
    def capabilities(self) -> Capabilities:
        return self._engine.capabilities

    async def start(self, limit: float | None = None) -> None:
        await self._engine.start()

    async def close(self) -> None:
        await self._engine.close()

    def generate(self, request: GenerateRequest) -> AsyncGenerator[CompletionChunk, None]:
        return self._engine.generate(request)

    async def embed(self, inputs: Sequence[Prompt]) -> EmbeddingOutput:
        return await self._engine.embed(inputs)


def fleet(folder: Path, *, perplexity: bool = False) -> Fleet:
    scripts = {"demo": {}, "slow": {"tokens_per_second": 25}}  # Twenty seconds for "slow".
    models = []
    for name, changes in scripts.items():
        scripted_engine(folder, name, **changes)
        path = str(folder / f"{name}.script.json")
        models.append(LocalModel(name=name, path=path, format="script"))
    config = ModelConfig(load=LoadOptions(max_concurrency=1))
    return Fleet(models, dict.fromkeys(scripts, config), max_waiting=1, perplexity=perplexity)


@pytest.fixture(params=[ServerSettings()], ids=[""])
def served(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Server]:
    """A server that was asked nothing yet; its settings are the parameter."""
    monkeypatch.setattr("openllm.fleet.served.Runner", RunnerHere)
    settings = request.param
    with running(fleet(tmp_path, perplexity=settings.perplexity), settings) as server:
        yield server


async def scrape(server: Server) -> Samples:
    """Return every sample by its name with its labels, as a query would write it."""
    async with server.http() as http:
        reply = await http.get("/metrics")
    assert reply.status_code == 200
    assert reply.headers["content-type"].startswith("text/plain")
    return samples(reply.text)


def samples(text: str, parse: Any = text_string_to_metric_families) -> Samples:
    found: Samples = {}
    for family in parse(text):
        for sample in family.samples:
            labels = ",".join(f'{key}="{value}"' for key, value in sorted(sample.labels.items()))
            key = f"{sample.name}{{{labels}}}"
            assert key not in found
            found[key] = sample.value
    return found


async def until(server: Server, key: str, value: float) -> Samples:
    """Scrape until the sample has the value."""
    deadline = time.monotonic() + 15
    while (now := await scrape(server)).get(key) != value:
        assert time.monotonic() < deadline, f"{key} is {now.get(key)}, not {value}"
        await asyncio.sleep(0.02)
    return now


async def test_a_server_that_was_asked_nothing(served: Server) -> None:
    now = await until(served, 'openllm_model_state{model="slow",state="ready"}', 1)
    assert now[f'openllm_build_info{{version="{__version__}"}}'] == 1
    assert now['openllm_model_state{model="demo",state="failed"}'] == 0
    for name in (
        "openllm_requests_running",
        "openllm_requests_waiting",
        "openllm_prompt_tokens_total",
        "openllm_generated_tokens_total",
        "openllm_model_restarts_total",
        "openllm_time_to_first_token_seconds_count",
    ):
        assert now[name + '{model="demo"}'] == 0
    assert not any("perplexity" in key for key in now)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_chat_is_counted(served: Server, stream: bool) -> None:
    async with served.http() as http:
        body = chat(stream=stream, stream_options={"include_usage": True} if stream else None)
        if not stream:
            del body["stream_options"]
        reply = await http.post("/v1/chat/completions", json=body)
        assert reply.status_code == 200
        plain = await http.post("/v1/chat/completions", json=chat())
    usage = plain.json()["usage"]
    now = await scrape(served)
    of = 'model="demo"'
    route = 'route="/v1/chat/completions"'
    assert now[f'openllm_requests_total{{{of},{route},status="200"}}'] == 2
    assert now[f"openllm_request_duration_seconds_count{{{of},{route}}}"] == 2
    assert now[f'openllm_generations_total{{finish_reason="stop",{of}}}'] == 2
    assert now[f"openllm_generated_tokens_total{{{of}}}"] == 2 * usage["completion_tokens"]
    assert now[f"openllm_prompt_tokens_total{{{of}}}"] == 2 * usage["prompt_tokens"]
    for name in ("time_to_first_token", "time_per_output_token", "request_queue_time"):
        assert now[f"openllm_{name}_seconds_count{{{of}}}"] == 2
        assert now[f'openllm_{name}_seconds_bucket{{le="+Inf",{of}}}'] == 2
        assert now[f"openllm_{name}_seconds_sum{{{of}}}"] >= 0


async def test_every_dialect_names_its_model_and_route(served: Server) -> None:
    bodies = {
        "/v1/completions": {"prompt": "hi", "model": "slow"},
        "/openai/v1/embeddings": {"input": ["hi"], "model": "slow"},
        "/chat": {"prompt": "hi", "model": "slow"},
        "/chat-sse": {"prompt": "hi", "model": "slow"},
        "/complete": {"prompt": "hi", "model": "slow"},
        "/embed": {"input": ["hi"], "model": "slow"},
    }
    async with served.http() as http:
        for path, body in bodies.items():
            assert (await http.post(path, json=body)).status_code == 200, path
        assert (await http.get("/v1/models/demo")).status_code == 200
    now = await scrape(served)
    for path in bodies:
        assert now[f'openllm_requests_total{{model="slow",route="{path}",status="200"}}'] == 1
    assert now['openllm_requests_total{model="demo",route="/v1/models/{model}",status="200"}'] == 1
    assert now['openllm_generations_total{finish_reason="stop",model="slow"}'] == 4


async def test_embedded_tokens_are_prompt_tokens(served: Server) -> None:
    async with served.http() as http:
        reply = await http.post("/v1/embeddings", json={"input": ["hi there", "you"]})
    tokens = reply.json()["usage"]["prompt_tokens"]
    assert tokens > 0
    assert (await scrape(served))['openllm_prompt_tokens_total{model="demo"}'] == tokens


async def test_who_leaves_is_counted_with_the_tokens_made(served: Server) -> None:
    body = chat("slow", model="slow", stream=True)
    async with served.http() as http, http.stream("POST", "/v1/chat/completions", json=body) as one:
        lines = one.aiter_lines()
        while '"word' not in await anext(lines):
            pass
        now = await until(served, 'openllm_requests_running{model="slow"}', 1)
        assert now['openllm_time_to_first_token_seconds_count{model="slow"}'] == 1
    now = await until(
        served, 'openllm_generations_total{finish_reason="cancelled",model="slow"}', 1
    )
    assert now['openllm_requests_running{model="slow"}'] == 0
    assert 0 < now['openllm_generated_tokens_total{model="slow"}'] < 400
    assert now['openllm_prompt_tokens_total{model="slow"}'] == 0


async def test_the_queue_shows_and_a_full_one_is_a_refusal(served: Server) -> None:
    body = chat("slow", model="slow")
    async with served.http() as http:
        asking = [
            asyncio.create_task(http.post("/v1/chat/completions", json=body)) for _ in range(2)
        ]
        await until(served, 'openllm_requests_waiting{model="slow"}', 1)
        assert (await http.post("/v1/chat/completions", json=body)).status_code == 429
        now = await scrape(served)
        of = 'model="slow"'
        assert now[f'openllm_generations_total{{finish_reason="refused",{of}}}'] == 1
        route = 'route="/v1/chat/completions"'
        assert now[f'openllm_requests_total{{{of},{route},status="429"}}'] == 1
        for each in asking:
            each.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
    await until(served, f'openllm_generations_total{{finish_reason="cancelled",{of}}}', 2)


async def test_a_failure_in_mid_stream_is_an_error(served: Server) -> None:
    async with served.http() as http:
        reply = await http.post("/v1/chat/completions", json=chat("breaks", stream=True))
    assert "error" in reply.text
    now = await scrape(served)
    assert now['openllm_generations_total{finish_reason="error",model="demo"}'] == 1
    # The status had been sent before.
    of = 'model="demo",route="/v1/chat/completions"'
    assert now[f'openllm_requests_total{{{of},status="200"}}'] == 1


async def test_nothing_that_a_client_made_up_is_a_label(served: Server) -> None:
    canary = "canary-7d1"
    async with served.http() as http:
        bad = chat(canary, model=canary)
        assert (await http.post("/v1/chat/completions", json=bad)).status_code == 404
        assert (await http.post("/v1/chat/completions", json=chat(canary))).status_code == 200
        assert (await http.get(f"/v1/models/{canary}")).status_code == 404
        assert (await http.get(f"/{canary}")).status_code == 404
        assert (await http.request("DELETE", "/v1/models")).status_code == 405
        foreign = {"origin": f"https://{canary}.example"}
        assert (await http.post("/chat", json={"prompt": "x"}, headers=foreign)).status_code == 403
        text = (await http.get("/metrics", headers={"x-request-id": canary})).text
    assert canary not in text
    assert "DELETE" not in text
    now = samples(text)
    empty = 'model="",route="{}",status="{}"'
    assert now["openllm_requests_total{" + empty.format("/v1/chat/completions", 404) + "}"] == 1
    assert now['openllm_requests_total{model="",route="/v1/models/{model}",status="404"}'] == 1
    assert now["openllm_requests_total{" + empty.format("", 404) + "}"] == 1
    assert now["openllm_requests_total{" + empty.format("/v1/models", 405) + "}"] == 1
    assert now["openllm_requests_total{" + empty.format("/chat", 403) + "}"] == 1


@pytest.mark.parametrize("served", [ServerSettings(api_key=("secret",))], indirect=True, ids=[""])
async def test_it_needs_the_key(served: Server) -> None:
    async with served.http() as http:
        assert (await http.get("/metrics")).status_code == 401
        reply = await http.get("/metrics", headers={"authorization": "Bearer secret"})
    assert reply.status_code == 200
    assert "secret" not in reply.text
    now = samples(reply.text)
    assert now['openllm_requests_total{model="",route="/metrics",status="401"}'] == 1


async def test_openmetrics_if_asked_for(served: Server) -> None:
    async with served.http() as http:
        await http.post("/chat", json={"prompt": "hi"})
        accept = {"accept": "application/openmetrics-text; version=1.0.0"}
        reply = await http.get("/metrics", headers=accept)
        head = await http.request("HEAD", "/metrics")
    assert reply.headers["content-type"].startswith("application/openmetrics-text")
    now = samples(reply.text, openmetrics_families)
    assert now['openllm_requests_total{model="demo",route="/chat",status="200"}'] == 1
    assert (head.status_code, head.content) == (200, b"")


@pytest.mark.spec("S0-28")
@pytest.mark.parametrize("served", [ServerSettings(perplexity=True)], indirect=True, ids=[""])
async def test_perplexity_is_that_of_the_logprobs(served: Server) -> None:
    async with served.http() as http:
        body = {"prompt": "sample", "max_tokens": 12, "seed": 5}
        asked = (await http.post("/v1/completions", json={**body, "logprobs": 0})).json()
        plain = (await http.post("/v1/completions", json=body)).json()
        streamed = await http.post("/v1/completions", json={**body, "stream": True})
    (with_logprobs,), (without,) = asked["choices"], plain["choices"]
    assert without["logprobs"] is None
    assert without["text"] == with_logprobs["text"]
    assert '"tokens"' not in streamed.text
    logprobs = with_logprobs["logprobs"]["token_logprobs"]
    assert len(logprobs) == asked["usage"]["completion_tokens"] == 12
    now = await scrape(served)
    of = '{model="demo"}'
    assert now["openllm_perplexity_tokens_total" + of] == 36
    assert now["openllm_perplexity_nats_total" + of] == pytest.approx(-3 * sum(logprobs))
    expected = math.exp(-sum(logprobs) / len(logprobs))
    assert now["openllm_perplexity_sum" + of] == pytest.approx(3 * expected)
    assert now['openllm_perplexity_count{model="slow"}'] == 0


@pytest.mark.parametrize("served", [ServerSettings(perplexity=True)], indirect=True, ids=[""])
async def test_totals_go_on_when_a_model_is_changed(served: Server) -> None:
    generated = 'openllm_generated_tokens_total{model="demo"}'
    surprise = 'openllm_perplexity_tokens_total{model="demo"}'
    async with served.http() as http:
        await http.post("/chat", json={"prompt": "hi"})
        before = await scrape(served)
        fleet: Fleet = served.fleet
        models = [served.model for served in fleet._served.values()]
        changed = {"demo": ModelConfig(load=LoadOptions(max_concurrency=2))}
        replacing = asyncio.run_coroutine_threadsafe(fleet.replace(models, changed), served.loop)
        replaced = await asyncio.wrap_future(replacing)
        assert "demo" in replaced.restarted
        assert (await scrape(served))[generated] == before[generated] > 0
        await http.post("/chat", json={"prompt": "hi"})
    after = await scrape(served)
    assert after[generated] == 2 * before[generated]
    assert after[surprise] == 2 * before[surprise] > 0


async def test_a_scrape_wakes_and_disturbs_nothing(served: Server) -> None:
    before = await until(served, 'openllm_model_state{model="slow",state="ready"}', 1)
    after = await scrape(served)
    changed = {key for key in after if key in before and after[key] != before[key]}
    assert all(key.startswith(("process_", "openllm_request")) for key in changed), changed
