"""BentoML's older services with our runners, as BentoML's own command serves them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import httpx2
import pytest

import openllm
from openllm.models.families import find
from tests.e2e.bentoml_process import bentoml_serving
from tests.e2e.server_process import started
from tests.hub_server import HubServer
from tests.waiting import wait_until

DEMO = Path(openllm.__file__).parent / "demo" / "demo-q8_0.gguf"
TEXT = {"content-type": "text/plain"}

HOUSE = """
from bentoml.io import JSON, Text
from bentoml.legacy import Runnable, Runner, Service

from open_llm_server.bloom import get_runner as get_bloom_runner
from open_llm_server.llama import get_runner as get_llama_runner


class Shout(Runnable):
    SUPPORTED_RESOURCES = ("cpu",)
    SUPPORTS_CPU_MULTI_THREADING = True

    @Runnable.method(batchable=False)
    def shout(self, text):
        return text.upper()


llama = get_llama_runner(top_k=3, top_p=0.15, max_tokens=8)
bloom = get_bloom_runner(freq_penalty=0.123, max_tokens=8, embedded=True)
other = Runner(Shout, name="shout")
svc = Service("house", runners=[llama, bloom, other])


@svc.api(input=JSON(), output=JSON())
async def chat(body):
    return await llama.chat.async_run(body)


@svc.api(input=JSON(), output=JSON())
async def complete(body):
    return await bloom.complete.async_run(body)


@svc.api(input=JSON(), output=JSON())
async def embed(body):
    return await llama.embed.async_run(body)


@svc.api(input=Text(), output=Text())
async def stream(text):
    async for piece in llama.chat_stream.async_stream(text, temperature=0):
        yield piece


@svc.api(input=Text(), output=Text())
async def refused(text):
    try:
        async for piece in llama.chat_stream.async_stream(text, temperature=9):
            yield piece
    except ValueError as error:
        yield f"{type(error).__name__}: {error}"


@svc.api(input=Text(), output=Text())
async def mistaken(text):
    try:
        async for output in llama.generate_iterator.async_stream(text, temprature=1):
            yield output.outputs[0].text
    except TypeError as error:
        yield str(error)


@svc.api(input=Text(), output=JSON())
async def outputs(text):
    stream = llama.generate_iterator.async_stream(text, temperature=0.0)
    return [output.model_dump() async for output in stream]


@svc.api(input=Text(), output=Text())
async def shout(text):
    return await other.shout.async_run(text)
"""

TWO_SPEEDS = """
import os

from bentoml.io import JSON, Text
from bentoml.legacy import Service

from open_llm_server import LLMRunnable, get_runner


class WithThreads(LLMRunnable, model_name="demo"):
    @LLMRunnable.method(batchable=False)
    def threads(self):
        return [os.environ["OMP_NUM_THREADS"], self._llm.config.load.threads]


class WithCount(LLMRunnable, model_name="plain"):
    @LLMRunnable.method(batchable=False)
    def running(self):
        return self._llm.model.running


targeted, plain = get_runner("targeted=./slow.script.json"), get_runner("plain=./slow.script.json")
demo = get_runner("demo")
svc = Service("speeds", runners=[targeted, plain, demo])


@svc.api(input=Text(), output=JSON())
async def first(text):
    return await targeted.chat.async_run(text)


@svc.api(input=Text(), output=JSON())
async def second(text):
    return await plain.chat.async_run(text)


@svc.api(input=Text(), output=Text())
async def slowly(text):
    async for piece in plain.chat_stream.async_stream(text):
        yield piece


@svc.api(input=Text(), output=JSON())
async def running(text):
    return await plain.running.async_run()


@svc.api(input=Text(), output=Text())
async def dies(text):
    try:
        async for piece in plain.chat_stream.async_stream("die"):
            yield piece
    except Exception as error:
        yield f"{type(error).__name__}: {error}"


@svc.api(input=Text(), output=JSON())
async def threads(text):
    return await demo.threads.async_run()
"""


def running(client: httpx2.Client) -> int:
    return int(client.post("/running", content="x", headers=TEXT).text)


@pytest.mark.spec("S0-49", "S0-50", "S0-51", "S0-54", "S0-55")
def test_two_families_and_a_users_own_runner(tmp_path: Path) -> None:
    (tmp_path / "service.py").write_text(HOUSE)
    with HubServer() as hub:
        for family in ("llama", "bloom"):
            row = find(family)
            assert row is not None
            hub.add_repo(row.model_id, {DEMO.name: DEMO.read_bytes()}, row.revision)
        home = str(tmp_path / "home")
        environment = {"HF_ENDPOINT": hub.url, "BENTOML_HOME": home}
        with bentoml_serving("service:svc", tmp_path, **environment) as client:
            assert hub.body_bytes <= 2 * 1.05 * DEMO.stat().st_size
            body = {"prompt": "Hello", "temperature": 0}
            chat = client.post("/chat", json=body).json()
            assert chat["message"]
            assert chat["configuration"].items() >= {
                "model": "llama", "prompt": "Hello", "temperature": 0.0, "top_k": 3,
                "top_p": 0.15, "stop_sequence": None,
            }.items()  # fmt: skip
            complete = client.post("/complete", json="Once upon").json()
            assert len(complete["choices"]) == 1
            assert complete["configuration"]["frequency_penalty"] == 0.123
            vectors = client.post("/embed", json=["a cat", "soup"]).json()
            assert len(vectors) == 2
            assert len(vectors[0]) == len(vectors[1]) > 1
            with client.stream("POST", "/stream", content="Hello", headers=TEXT) as streamed:
                assert "".join(streamed.iter_text()) == chat["message"]
            outputs = client.post("/outputs", content="Once", headers=TEXT).json()
            assert [each["finished"] for each in outputs] == [False] * (len(outputs) - 1) + [True]
            assert len(outputs) > 2
            assert client.post("/shout", content="quiet", headers=TEXT).text == "QUIET"
            wrong = client.post("/chat", json=body | {"temperature": 2})
            assert (wrong.status_code, "temperature must be at most 1" in wrong.text) == (400, True)
            told = client.post("/refused", content="Hello", headers=TEXT).text
            assert told == "BadRequestError: temperature must be at most 1, got 9"
            told = client.post("/mistaken", content="Hello", headers=TEXT).text
            assert told.endswith("no argument 'temprature'; did you mean 'temperature'?")


@pytest.mark.spec("S0-10", "S1-36")
def test_a_configuration_file_targets_one_model(tmp_path: Path) -> None:
    (tmp_path / "service.py").write_text(TWO_SPEEDS)
    crash = {"match": "^die$", "reply": "one two", "faults": [{"kind": "crash", "after_tokens": 1}]}
    long = {"match": "^long$", "reply": "word ", "repeat": 3000}
    brief = {"reply": "word ", "repeat": 60}
    slow = {"tokens_per_second": 20, "default": brief, "rules": [crash, long]}
    (tmp_path / "slow.script.json").write_text(json.dumps(slow))
    file = tmp_path / "bentoml.yaml"
    file.write_text(
        "version: 1\nrunners:\n  targeted: {traffic: {timeout: 1}}\n  demo: {resources: {cpu: 1}}\n"
    )
    with bentoml_serving("service:svc", tmp_path, BENTOML_CONFIGURATION=str(file)) as client:
        first = client.post("/first", content="x", headers=TEXT)
        assert first.status_code >= 500
        second = client.post("/second", content="x", headers=TEXT)
        assert second.json()["message"] == "word " * 60
        threads = client.post("/threads", content="x", headers=TEXT)
        assert threads.json() == ["1", 1]
        with client.stream("POST", "/slowly", content="long", headers=TEXT) as streamed:
            pieces = streamed.iter_text()
            assert next(pieces) == "word"
            assert running(client) == 1
        wait_until(lambda: not running(client))  # The reply takes minutes.
        dies = client.post("/dies", content="x", headers=TEXT).text
        assert "EngineCrashedError: the process of runner 'plain' ended a stream early" in dies


@pytest.mark.spec("S0-53")
def test_start_serves_from_python(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import open_llm_server as olm\n"
        "if __name__ == '__main__':\n"
        "    olm.start(model='mine=demo', port=0, max_tokens=3, temperature=0, top_k=5)\n"
    )
    with started([sys.executable, str(program)]) as server:
        assert server.ready["models"] == ["mine"]
        reply = server.post("/chat", {"prompt": "Hi"}).json()
        assert reply["configuration"].items() >= {
            "model": "mine", "max_tokens": 3, "temperature": 0.0, "top_k": 5,
        }.items()  # fmt: skip
    assert server.process.returncode == 0
