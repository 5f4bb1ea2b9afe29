"""GET /metrics of a real server with the bundled model."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from openllm import LLM
from tests.e2e.server_process import ServerProcess, serving
from tests.processes import runners
from tests.waiting import wait_until

PROMPT = "Once upon a time"
TOKENS = 32


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with serving("demo", "--perflexity", "--threads", "1") as server:
        yield server


def scrape(server: ServerProcess) -> dict[str, float]:
    """Return the samples of the demo model that have no other label."""
    reply = server.get("/metrics")
    assert reply.status_code == 200
    return {
        sample.name: sample.value
        for family in text_string_to_metric_families(reply.text)
        for sample in family.samples
        if sample.labels == {"model": "demo"}
    }


def growth(server: ServerProcess, **body: object) -> dict[str, float]:
    """Complete a text and return by how much each sample grew."""
    before = scrape(server)
    fields = {"prompt": PROMPT, "max_tokens": TOKENS, "temperature": 0, **body}
    assert server.post("/v1/completions", fields).status_code == 200
    after = scrape(server)
    return {name: after[name] - before[name] for name in after}


def sum_of_logprobs() -> float:
    """Return that of the same text, made in this process."""
    with LLM("demo", threads=1) as llm:
        answer = llm.sync_generate(PROMPT, max_tokens=TOKENS, temperature=0.0, logprobs=0)
    (output,) = answer.outputs
    assert output.logprobs is not None
    assert len(output.logprobs) == len(output.token_ids) == TOKENS
    return sum(
        each[token_id] for each, token_id in zip(output.logprobs, output.token_ids, strict=True)
    )


@pytest.mark.spec("S0-28")
def test_perplexity_is_what_the_logprobs_say(server: ServerProcess) -> None:
    logprobs = sum_of_logprobs()
    for body in ({}, {"stream": True}, {"logprobs": 3}):
        grown = growth(server, **body)
        assert grown["openllm_perplexity_count"] == 1
        assert grown["openllm_perplexity_tokens_total"] == TOKENS
        assert grown["openllm_perplexity_nats_total"] == pytest.approx(-logprobs, rel=0.01)
        expected = math.exp(-logprobs / TOKENS)
        assert grown["openllm_perplexity_sum"] == pytest.approx(expected, rel=0.01)
        assert grown["openllm_generated_tokens_total"] == TOKENS


def test_logprobs_that_nobody_asked_for_are_not_sent(server: ServerProcess) -> None:
    body = {"prompt": PROMPT, "max_tokens": 4}
    reply = server.post("/v1/completions", body).json()
    assert [choice["logprobs"] for choice in reply["choices"]] == [None]
    streamed = server.post("/v1/completions", {**body, "stream": True}).text
    assert '"logprobs":null' in streamed
    assert "token_logprobs" not in streamed


def test_what_the_guard_refuses_is_counted_too(server: ServerProcess) -> None:
    label = 'openllm_requests_total{model="",route="/v1/models",status="403"}'
    assert server.get("/v1/models", headers={"host": "evil.example"}).status_code == 403
    assert f"{label} 1.0\n" in server.get("/metrics").text


def test_a_restart_is_counted(server: ServerProcess) -> None:
    (runner,) = runners(server.process.pid)
    before = scrape(server)
    runner.kill()
    restarts = before["openllm_model_restarts_total"] + 1
    wait_until(lambda: scrape(server)["openllm_model_restarts_total"] == restarts)
    after = scrape(server)
    assert after["openllm_generated_tokens_total"] == before["openllm_generated_tokens_total"]
    assert growth(server)["openllm_generated_tokens_total"] == TOKENS
