"""A hub's model at a revision and in a folder that flags name, in a real server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import openllm
from tests.e2e.server_process import run, serving
from tests.hub_server import MAIN, HubServer

GGUF = (Path(openllm.__file__).parent / "demo" / "demo-q8_0.gguf").read_bytes()


@pytest.mark.spec("S2-12", "S2-21", "S2-24", "S3-02")
def test_a_start_takes_them_from_its_flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "unused"))
    flags = ("--model-path", "org/tiny", "--download-dir", str(tmp_path / "weights"))
    small = ("--max-model-len", "128", "--max-concurrency", "1", "--threads", "1")
    with HubServer({"org/tiny": {"demo-q8_0.gguf": GGUF}}) as hub:
        hub.add_repo("org/tiny", {"demo-q8_0.gguf": GGUF, "README.md": b"older"}, revision="v1")
        refs = hub.repos["org/tiny"].refs
        assert refs["v1"] != refs[MAIN]
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        found: list[set[str]] = []
        for revision in ("v1", MAIN, "v1"):
            asked = len(hub.requests)
            with serving(*flags, "--revision", revision, *small) as server:
                assert server.ready["models"] == ["tiny"]
                body = {"model": "tiny", "prompt": "word " * 200, "max_tokens": 2}
                answer = server.post("/v1/completions", body)
                assert answer.status_code == 400
                assert "128" in answer.json()["error"]["message"]
            found.append({each["revision"] for each in _stored(tmp_path / "weights")})
        assert found == [{refs["v1"]}, {*refs.values()}, {*refs.values()}]
        assert len(hub.requests) == asked  # The third start found it in the folder.
        assert not (tmp_path / "unused" / "models").exists()


def _stored(folder: Path) -> list[dict[str, str]]:
    done = run("list", "--json", "--models-dir", str(folder))
    assert done.returncode == 0, done.stderr
    found: list[dict[str, str]] = json.loads(done.stdout)
    return found
