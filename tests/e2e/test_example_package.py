"""An engine, a model and a family of a user's own, from a package that is only installed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.server_process import COMMAND, run, serving, started
from tests.example_package import install


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = install(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "home"))
    return folder


@pytest.mark.spec("S0-52", "S3-44")
def test_its_models_start_by_name_on_its_engine(installed: Path) -> None:
    with serving("tales,chain") as server:
        assert server.ready["models"] == ["tales", "chain"]
        first, second = (
            server.post(
                "/v1/completions",
                {"model": "chain", "prompt": "Once upon a time", "max_tokens": 40},
            ).json()["choices"][0]["text"]
            for _ in range(2)
        )
        assert first == second  # Its default temperature is 0.
        assert len(first) == 40
        message = {"role": "user", "content": "Once upon a time"}
        body = {"model": "tales", "messages": [message], "max_tokens": 20, "stop": ["zzz"]}
        answer = server.post("/v1/chat/completions", body)
        assert answer.status_code == 200
        assert answer.json()["usage"]["completion_tokens"] == 20
        refused = server.post("/v1/completions", body | {"prompt": "x", "logit_bias": {"1": 1}})
        assert refused.status_code == 400


def test_an_option_that_its_engine_does_not_have_is_refused(installed: Path) -> None:
    done = run("start", "tales", "--gpu-layers", "3")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--gpu-layers: 'tales' runs on markov, which has no option" in done.stderr


def test_models_lists_what_it_adds(installed: Path) -> None:
    done = subprocess.run([*COMMAND, "models"], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["tales"]["supported_backends"] == ["markov"]
    assert "chain" in found
    assert found["markov"] == {
        "architecture": "MarkovChain",
        "example_id": "markov",
        "supported_backends": ["markov"],
        "installation": "pip install openllm-markov",
        "items": [],
    }
    assert "llama" in found


@pytest.mark.spec("S0-52", "S3-44")
def test_its_family_starts_by_name_and_size(installed: Path) -> None:
    with serving("markov:tales", "--temperature", "0") as server:
        assert server.ready["models"] == ["markov:tales"]
        body = {"model": "markov:tales", "prompt": "Once upon a time", "max_tokens": 16}
        answer = server.post("/v1/completions", body)
        assert answer.json()["usage"]["completion_tokens"] == 16


def test_an_llm_of_it_generates(installed: Path) -> None:
    code = (
        "import openllm\n"
        "with openllm.LLM('tales', max_new_tokens=12, seed=1) as llm:\n"
        "    print(llm.backend, llm.config.defaults.temperature)\n"
        "    print(len(llm.sync_generate('Once').outputs[0].text))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["markov", "0.7", "12"]


@pytest.mark.spec("S0-52")
def test_a_program_adds_its_own_and_starts_them(installed: Path, tmp_path: Path) -> None:
    (installed / "openllm_markov-1.0.dist-info" / "entry_points.txt").unlink()
    (tmp_path / "mine.txt").write_text("to be or not to be " * 20)
    program = tmp_path / "program.py"
    program.write_text(
        "import openllm\n"
        "from openllm.engines import add_engine\n"
        "add_engine('chains', 'openllm_markov.engine:MarkovEngine', formats=['other'])\n"
        "@openllm.Registry.add_model(model_name='mine')\n"
        "class Mine:\n"
        f"    source = {str(tmp_path / 'mine.txt')!r}\n"
        "    format = 'other'\n"
        "    defaults = {'backend': 'chains', 'max_tokens': 9}\n"
        "if __name__ == '__main__':\n"
        "    openllm.start(model='mine', port=0)\n"
    )
    with started([sys.executable, str(program)]) as server:
        assert server.ready["models"] == ["mine"]
