"""`openllm start` on the torch engine without weights, and with a tokenizer from a hub."""

from __future__ import annotations

from pathlib import Path

import pytest

import openllm
from tests.e2e.server_process import run, serving
from tests.hub_server import HubServer

DEMO = Path(openllm.__file__).parent / "demo" / "safetensors"
CONTENT = {file.name: file.read_bytes() for file in DEMO.iterdir() if file.is_file()}
TEMPLATE = b"{% for m in messages %}{{ m.content }}{% endfor %} so"
ASKED = [{"role": "user", "content": "Once upon a time"}]


@pytest.mark.spec("S2-20", "S2-22")
def test_weights_are_neither_fetched_nor_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "store"))
    words = CONTENT | {"chat_template.jinja": TEMPLATE}
    with HubServer({"org/model": CONTENT, "org/words": words}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        flags = ("--backend", "torch", "--load_format", "dummy", "--tokenizer", "org/words")
        for _ in range(2):
            with serving("org/model", *flags) as server:
                body = {"messages": ASKED, "max_tokens": 3, "temperature": 0}
                chat = server.post("/v1/chat/completions", body).json()
                body = {"prompt": "Once upon a time so", "max_tokens": 3, "temperature": 0}
                plain = server.post("/v1/completions", body).json()
                assert chat["choices"][0]["message"]["content"] == plain["choices"][0]["text"]
                assert chat["usage"] == plain["usage"]
            assert not hub.asked("model.safetensors")
            asked, hub.requests = list(hub.requests), []
        assert asked == []
        assert hub.body_bytes < len(CONTENT["model.safetensors"])


@pytest.mark.reliability("S-22")
@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--load-format", "pt"), "--load-format 'pt': pickled weights can run code"),
        (("--tokenizer", "./no-such-folder"), "no-such-folder does not exist"),
        (("--tokenizer-mode", "slow"), "there is no tokenizer.model in"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(flags: tuple[str, str], said: str) -> None:
    done = run("start", str(DEMO), "--backend", "torch", "--port", "0", *flags)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
