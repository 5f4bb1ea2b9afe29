"""`openllm start` on the torch engine, spoken to by the real SDK."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

import openllm
from tests.e2e.server_process import ServerProcess, run, serving
from tests.processes import runners
from tests.waiting import wait_until

FOLDER = Path(openllm.__file__).parent / "demo" / "safetensors"
QUESTION: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with serving(f"folder={FOLDER}", "--backend", "torch", "--dtype", "float32") as started:
        yield started


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.url + "/v1", api_key="EMPTY", max_retries=0) as made:
        yield made


@pytest.mark.spec("S1-02")
def test_streamed_and_plain_answers_are_the_same(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "folder", "messages": QUESTION, "temperature": 0}
    plain = client.chat.completions.create(**asked)
    with client.chat.completions.create(**asked, stream=True) as stream:
        parts = [chunk.choices[0].delta.content or "" for chunk in stream]
    assert plain.choices[0].message.content == "".join(parts) == "The capital of France is Paris."
    assert len(parts) > 3


def test_the_native_api_reaches_the_same_model(server: ServerProcess) -> None:
    body = {"prompt": "What is the capital of France?", "temperature": 0}
    assert "Paris" in server.post("/chat", body).json()["message"]


def test_json_logprobs_and_several_choices(client: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"]}
    reply = client.chat.completions.create(
        model="folder",
        messages=QUESTION,
        n=2,
        logprobs=True,
        top_logprobs=2,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": schema | {"additionalProperties": False}},
        },
    )
    assert [choice.finish_reason for choice in reply.choices] == ["stop", "stop"]
    for choice in reply.choices:
        assert json.loads(choice.message.content or "")["n"] in (1, 2)
        assert choice.logprobs is not None
        assert choice.logprobs.content


def test_embeddings(client: openai.OpenAI) -> None:
    near, also, far = client.embeddings.create(
        model="folder", input=["count from one to five", "count from one to six", "Paris"]
    ).data
    dot = [
        sum(a * b for a, b in zip(near.embedding, other.embedding, strict=True))
        for other in (near, also, far)
    ]
    assert dot[0] == pytest.approx(1.0, abs=1e-3)
    assert dot[1] > dot[2]


def test_a_dead_runner_is_replaced(server: ServerProcess, client: openai.OpenAI) -> None:
    (runner,) = runners(server.process.pid)
    runner.kill()

    def replaced() -> bool:
        others = [each for each in runners(server.process.pid) if each != runner]
        return bool(others) and server.get("/readyz").status_code == 200

    wait_until(replaced, 120)
    again = client.completions.create(model="folder", prompt="The", max_tokens=4, temperature=0)
    assert again.usage is not None
    assert again.usage.completion_tokens == 4


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "safetensors"),
        (lambda folder: edit(folder, auto_map={"AutoModelForCausalLM": "m.M"}), "trust"),
        (lambda folder: edit(folder, architectures=["NoSuchForCausalLM"], model_type="no"), "no"),
    ],
    ids=["no weights", "code", "unknown"],
)
@pytest.mark.reliability("S-22")
def test_a_bad_folder_is_refused_in_one_line(tmp_path: Path, spoil: Any, said: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(FOLDER, folder)
    spoil(folder)
    done = run("start", str(folder), "--backend", "torch", "--port", "0")
    assert done.returncode in (1, 2)
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def edit(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
