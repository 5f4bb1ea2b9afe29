"""Settings from every source, as the requests of a started server meet them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from openllm.types import LocalModel
from tests.e2e.server_process import ServerProcess, run, serving

Scripted = Callable[..., LocalModel]


def chat(server: ServerProcess, **body: Any) -> dict[str, Any]:
    """Return the configuration that a reply says it was made with."""
    answer = server.post("/chat", {"prompt": "Hi", **body})
    assert answer.status_code == 200, answer.text
    configuration: dict[str, Any] = answer.json()["configuration"]
    return configuration


@pytest.mark.spec("S0-06", "S0-29", "S0-31", "S0-33")
def test_the_first_source_that_has_a_value_wins(
    scripted: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each field is given by one source more than the last; the request itself comes first."""
    one, two = scripted("one").path, scripted("two").path
    file = tmp_path / "a.yaml"
    file.write_text(
        "max_tokens: 10\nseed: 11\ntop_p: 0.11\ntop_k: 11\ntemperature: 0.11\n"
        "models:\n  one: {top_p: 0.12, top_k: 12, temperature: 0.12, seed: 12}\n"
    )
    for name, value in {"TOP_P": "0.13", "TOP_K": "13", "TEMPERATURE": "0.13"}.items():
        monkeypatch.setenv(f"OPEN_LLM_{name}", value)
    monkeypatch.setenv("OPEN_LLM_ONE_TOP_K", "14")
    monkeypatch.setenv("OPEN_LLM_ONE_TEMPERATURE", "0.14")
    monkeypatch.setenv("OPEN_LLM_CONFIGURATION", str(file))
    flags = ["--temperature", "0.15", "--opt", "two.temperature=0.16"]
    with serving(f"one={one},two={two}", *flags) as server:
        assert server.ready["models"] == ["one", "two"]
        first, second = chat(server), chat(server, model="two")
        asked = chat(server, temperature=0.17)
    assert first["model"] == "one"
    names = ("temperature", "top_k", "top_p", "seed", "max_tokens", "frequency_penalty")
    assert [first[name] for name in names] == [0.15, 14, 0.13, 12, 10, 0.0]
    assert [second[name] for name in names] == [0.16, 13, 0.13, 11, 10, 0.0]
    assert asked["temperature"] == 0.17


@pytest.mark.spec("S0-32", "S3-43")
@pytest.mark.parametrize("way", ["variable", "flag", "argument"])
def test_a_file_says_what_to_serve(
    scripted: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    models = {"b": {"model": scripted("x").path, "stop": "--"}, "a": scripted("y").path}
    file = tmp_path / "serve.json"
    file.write_text(json.dumps({"models": models, "temperature": 0.5, "api-key": "SECRET"}))
    if way == "variable":
        monkeypatch.setenv("OPEN_LLM_CONFIGURATION", str(file))
    arguments = {"variable": [], "flag": ["--config", str(file)], "argument": [str(file)]}[way]
    with serving(*arguments) as server:
        assert server.ready["models"] == ["b", "a"]
        assert server.get("/v1/models").status_code == 401
        header = {"Authorization": "Bearer SECRET"}
        answer = server.post("/chat", {"prompt": "left -- right"}, headers=header).json()
        other = server.post("/chat", {"prompt": "left -- right", "model": "a"}, headers=header)
    assert answer["message"] == "You said: left "
    assert answer["configuration"]["temperature"] == 0.5
    assert other.json()["message"] == "You said: left -- right"


@pytest.mark.spec("S0-30", "S0-34")
def test_the_variables_of_the_documents(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    bloom = f"bloom={scripted().path}"
    monkeypatch.setenv("OPEN_LLM_STOP_SEQUENCE", "0.234")
    monkeypatch.setenv("OPEN_LLM_BLOOM_FRQUENCY_PENALTY", "0.123")
    done = run("start", bloom, "--port", "0")
    assert done.returncode == 2
    assert done.stderr == (
        "Error: OPEN_LLM_BLOOM_FRQUENCY_PENALTY: there is no such option;"
        " did you mean OPEN_LLM_BLOOM_FREQUENCY_PENALTY?\n"
    )
    monkeypatch.delenv("OPEN_LLM_BLOOM_FRQUENCY_PENALTY")
    monkeypatch.setenv("OPEN_LLM_BLOOM_FREQUENCY_PENALTY", "0.123")
    with serving(bloom) as server:
        found = chat(server)
    assert (found["stop_sequence"], found["frequency_penalty"]) == ("0.234", 0.123)


@pytest.mark.spec("S0-25", "S0-26")
def test_each_model_has_its_own_pre_prompt(scripted: Scripted, tmp_path: Path) -> None:
    reply = {"default": {"reply": "[{system}] {user}"}}
    path = tmp_path / "pirate.txt"
    path.write_text("Speak like a pirate.")
    models = f"{scripted('one', **reply).path},{scripted('two', **reply).path}"
    prompts = ["--opt", f"one.prompt={path}", "--opt", "two.prompt=Be brief."]
    with serving(models, *prompts) as server:
        said = [
            server.post("/chat", {"prompt": "Hi", "model": name}).json()["message"]
            for name in ("one", "two")
        ]
    assert said == ["[Speak like a pirate.] Hi", "[Be brief.] Hi"]


def test_models_may_have_different_engines(scripted: Scripted) -> None:
    options = ["--opt", "demo.backend=llamacpp", "--opt", "talk.backend=scripted"]
    with serving(f"demo,talk={scripted().path}", *options, "--max-tokens", "4") as server:
        assert server.ready["models"] == ["demo", "talk"]
        assert chat(server, model="talk")["max_tokens"] == 4


@pytest.mark.reliability("F-15")
def test_nothing_is_started_after_a_mistake(scripted: Scripted, tmp_path: Path) -> None:
    slow = scripted("slow", load_seconds=30)
    file = tmp_path / "a.yaml"
    file.write_text(f"models:\n  slow: {slow.path}\n  gone: ./gone.gguf\nssl_keyfile: key.pem\n")
    done = run("start", str(file), "--port", "0")
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 3
