"""`openllm start` as a newcomer meets it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from openai import OpenAI

import openllm
from openllm.types import LocalModel
from tests.e2e.server_process import ServerProcess, run, serving, started
from tests.processes import alive_after, runners
from tests.waiting import wait_until

Scripted = Callable[..., LocalModel]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def demo() -> Iterator[ServerProcess]:
    with serving() as server:
        yield server


@pytest.mark.spec("S0-05")
def test_serves_the_bundled_model_by_default(demo: ServerProcess) -> None:
    assert demo.ready["models"] == ["demo"]
    assert demo.get("/readyz").status_code == 200
    body = {"messages": [{"role": "user", "content": "Hello! Who are you?"}], "temperature": 0}
    answer = demo.post("/v1/chat/completions", body).json()
    assert "demo" in answer["choices"][0]["message"]["content"]
    assert answer["choices"][0]["finish_reason"] == "stop"


def test_the_printed_curl_example_works_when_pasted(demo: ServerProcess) -> None:
    done = subprocess.run(
        ["bash", "-c", demo.ready["try"]], capture_output=True, text=True, check=True
    )
    assert '"chat.completion"' in done.stdout


@pytest.mark.spec("S2-34", "S3-17", "S1-02")
@pytest.mark.parametrize("prefix", ["/v1", "/openai/v1"])
def test_the_openai_sdk_streams_a_chat(demo: ServerProcess, prefix: str) -> None:
    client = OpenAI(base_url=demo.url + prefix, api_key="EMPTY")
    ask = {"messages": [{"role": "user", "content": "What is the capital of France?"}]}
    with client:
        plain = client.chat.completions.create(model="demo", temperature=0, **ask)
        stream = client.chat.completions.create(model="demo", temperature=0, stream=True, **ask)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        completion = client.completions.create(model="demo", prompt="Hello", max_tokens=64)
    assert text == plain.choices[0].message.content
    assert "Paris" in text
    assert completion.choices[0].text


@pytest.mark.spec("S0-43", "S0-44", "S3-20")
def test_embeds_by_meaning(demo: ServerProcess) -> None:
    texts = ["What is the capital of France?", "Which city is France's capital?", "Count to ten."]
    one, like, other = (
        each["embedding"]
        for each in demo.post("/v1/embeddings", {"model": "demo", "input": texts}).json()["data"]
    )

    def dot(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True))

    assert dot(one, one) == pytest.approx(1.0, abs=1e-3)
    assert dot(one, like) > dot(one, other)


@pytest.mark.spec("S0-15")
def test_temperature_zero_repeats(demo: ServerProcess) -> None:
    body = {"prompt": "Tell me something about yourself.", "temperature": 0}
    answers = {demo.post("/chat", body).json()["message"] for _ in range(3)}
    assert len(answers) == 1


def test_sigterm_ends_server_and_runner(scripted: Scripted) -> None:
    with serving(scripted().path) as server:
        children = psutil.Process(server.process.pid).children(recursive=True)
        assert children
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0
        assert not alive_after(children)


def test_a_stream_that_outlives_the_grace_ends_with_an_error(scripted: Scripted) -> None:
    model = scripted(tokens_per_second=20)
    with serving(model.path, "--timeout-graceful-shutdown", "1") as server:
        body = {"prompt": "long", "stream": True}
        with server.lines("/v1/completions", body) as lines:
            next(lines)
            server.process.send_signal(signal.SIGTERM)
            rest = list(lines)
        assert "shutting down" in rest[-2]
        assert "finish_reason" not in rest[-2]
        assert "[DONE]" not in "".join(rest)
        assert server.process.wait(30) == 0


def test_a_short_stream_is_finished_after_sigterm(scripted: Scripted) -> None:
    with serving(scripted(tokens_per_second=20).path) as server:
        body = {"prompt": "hello hello hello", "stream": True}
        with server.lines("/v1/completions", body) as lines:
            next(lines)
            server.process.send_signal(signal.SIGTERM)
            assert [line for line in lines if line][-1] == "data: [DONE]"
        assert server.process.wait(30) == 0


@pytest.mark.spec("S0-12")
def test_a_model_that_fails_is_named_and_the_others_serve(scripted: Scripted) -> None:
    bad = scripted("bad", load_fault={"kind": "out_of_memory"})
    with serving(f"{scripted('good').path},{bad.path}") as server:
        assert server.ready["models"] == ["good"]
        unready = server.get("/readyz")
        assert unready.status_code == 503
        assert {"name": "bad", "state": "failed"} in unready.json()["models"]
        assert server.post("/chat", {"prompt": "Hi"}).json()["message"] == "You said: Hi"


@pytest.mark.reliability("F-12")
def test_a_killed_server_leaves_no_runner(scripted: Scripted) -> None:
    with serving(scripted().path) as server:
        children = psutil.Process(server.process.pid).children(recursive=True)
        assert children
        server.process.kill()
        assert not alive_after(children)


@pytest.mark.reliability("F-14")
def test_a_port_in_use_is_found_before_anything_is_loaded(scripted: Scripted) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        done = run("start", scripted(load_seconds=30).path, "--port", str(port))
    assert done.returncode == 2
    assert f"port {port} on 127.0.0.1 is in use by process {os.getpid()}" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.spec("S0-07")
def test_an_unknown_model_names_the_known_ones() -> None:
    done = run("start", "dmo")
    assert done.returncode == 2
    assert "demo" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("content", "says"), [(b"hello", "GGUF"), (b"", "0 bytes"), (b"GGUF\x03\0\0\0", "truncated")]
)
def test_a_file_that_is_no_model_is_named(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(content)
    done = run("start", str(path))
    assert done.returncode == 2
    assert "broken.gguf" in done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_truncated_model_is_named_with_both_sizes(tmp_path: Path) -> None:
    whole = (ROOT / "src/openllm/demo/demo-q8_0.gguf").read_bytes()
    path = tmp_path / "half.gguf"
    path.write_bytes(whole[: len(whole) // 2])
    done = run("start", str(path))
    assert done.returncode == 2
    assert re.search(r"half\.gguf.*truncated", done.stderr)


@pytest.mark.spec("S0-14", "S0-22", "S0-34")
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--temperature", "1.5"], "--temperature '1.5'"),
        (["--opt", "temperature=2"], "--opt temperature '2'"),
        (["--opt", "temprature=0.5"], "did you mean 'temperature'"),
        (["--opt", "temperature"], "NAME=VALUE"),
        (["--port", "99999"], "--port '99999'"),
        (["--max-concurrency", "0"], "--max-concurrency '0'"),
        (["--port", "five"], "--port 'five' must be a whole number from 0 to 65535"),
        (["--workers", "2"], "--workers '2'"),
        (["--api-key", ""], "--api-key: a key is empty"),
        (["--api-key-file", "none"], "--api-key-file 'none': there is no such file"),
        (["--ssl-keyfile", "key.pem"], "--ssl-keyfile 'key.pem': this needs --ssl-certfile"),
        (["--ssl-certfile", "none.pem"], "--ssl-certfile 'none.pem': there is no such file"),
        (["--backend", "abacus"], "--backend: "),
        (["--no-such-option"], "--no-such-option"),
    ],
)
def test_a_wrong_option_is_named(arguments: list[str], says: str) -> None:
    done = run("start", *arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_prompt_file_that_is_no_text_is_refused(scripted: Scripted, tmp_path: Path) -> None:
    path = tmp_path / "latin1.txt"
    path.write_bytes("Grüße".encode("latin-1"))
    done = run("start", scripted().path, "--port", "0", "--prompt", str(path))
    assert done.returncode == 2
    assert "latin1.txt" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_certificate_that_is_none_is_named_before_anything_is_loaded(
    scripted: Scripted, tmp_path: Path
) -> None:
    path = tmp_path / "cert.pem"
    path.write_text("no PEM\n")
    done = run("start", scripted(load_seconds=30).path, "--port", "0", "--ssl-certfile", str(path))
    assert done.returncode == 2
    assert f"--ssl-certfile {str(path)!r} holds no certificate" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_wrong_script_is_refused_before_the_server_begins(scripted: Scripted) -> None:
    done = run("start", scripted(rulez=[]).path, "--port", "0")
    assert done.returncode == 2
    assert "`rulez`" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_prompt_like_a_path_is_told_and_used_as_text(scripted: Scripted) -> None:
    model = scripted(default={"reply": "[{system}]"})
    with serving(model.path, "--prompt", "nofile.txt", stderr=subprocess.PIPE) as server:
        body = {"messages": [{"role": "user", "content": "Hi"}]}
        answer = server.post("/v1/chat/completions", body).json()
        assert answer["choices"][0]["message"]["content"] == "[nofile.txt]"
        assert server.process.stderr is not None
        assert "--prompt 'nofile.txt': there is no such file" in server.process.stderr.readline()


# A shell without job control starts background processes with SIGINT ignored.
HEEDING_SIGINT = """
import signal; signal.signal(signal.SIGINT, signal.default_int_handler)
from openllm.cli import main; main(prog_name="openllm")
"""


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_signal_before_a_model_is_ready_ends_quietly(
    scripted: Scripted, sent: signal.Signals, status: int
) -> None:
    command = [sys.executable, "-c", HEEDING_SIGINT, "start", scripted(load_seconds=60).path]
    with subprocess.Popen(
        [*command, "--port", "0", "--log-level", "warning"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            wait_until(lambda: runners(process.pid))  # The model is being loaded.
            process.send_signal(sent)
            said, _ = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == status
    assert said == ("Interrupted.\n" if sent is signal.SIGINT else "")


def test_a_model_that_cannot_load_ends_the_server(scripted: Scripted) -> None:
    model = scripted(load_fault={"kind": "error", "message": "no such architecture"})
    done = run("start", model.path, "--port", "0")
    assert done.returncode == 1
    assert "no such architecture" in done.stderr


def test_a_setting_found_wrong_only_by_loading_ends_with_2(scripted: Scripted) -> None:
    done = run("start", scripted(chat_template="{% if").path, "--port", "0")
    assert done.returncode == 2
    assert "template" in done.stderr


@pytest.mark.spec("S0-14", "S0-20", "S0-41", "S0-22")
def test_flags_are_the_defaults_of_requests(scripted: Scripted) -> None:
    with serving(
        scripted().path, "--temperature", "0.25", "--top_k", "7", "--opt", "stop_sequence=--"
    ) as server:
        answer = server.post("/chat", {"prompt": "left -- right"}).json()
    assert answer["message"] == "You said: left "
    configuration = answer["configuration"]
    assert configuration["temperature"] == 0.25
    assert configuration["top_k"] == 7
    assert configuration["stop_sequence"] == "--"


@pytest.mark.spec("S0-20")
def test_stop_sequence_of_two_dashes_parses(scripted: Scripted) -> None:
    with serving(scripted().path, "--stop_sequence", "--") as server:
        assert server.post("/chat", {"prompt": "a -- b"}).json()["message"] == "You said: a "


@pytest.mark.spec("S0-25", "S0-26")
@pytest.mark.parametrize("from_file", [True, False])
def test_the_pre_prompt_applies_to_every_conversation(
    scripted: Scripted, tmp_path: Path, from_file: bool
) -> None:
    preprompt = "Speak like a pirate."
    if from_file:
        path = tmp_path / "pre.txt"
        path.write_text(preprompt)
    model = scripted(default={"reply": "[{system}] {user}"})
    with serving(model.path, "--prompt", str(path) if from_file else preprompt) as server:
        answer = server.post(
            "/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]}
        )
    assert answer.json()["choices"][0]["message"]["content"] == f"[{preprompt}] Hi"


@pytest.mark.spec("S0-26")
def test_the_pre_prompt_is_read_when_the_model_is_loaded() -> None:
    preprompt = "You are a patient teacher of geography who likes short answers. " * 4
    body = {"messages": [{"role": "user", "content": "What is the capital of Italy?"}]}
    with serving("--prompt", preprompt) as server:
        usage = server.post("/v1/chat/completions", body).json()["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] > usage["prompt_tokens"] / 2


@pytest.mark.spec("S0-26")
def test_a_pre_prompt_that_is_too_long_is_named() -> None:
    done = run("start", "--prompt", "word " * 2000)
    assert done.returncode == 2
    assert re.search(r"text of --prompt the prompt has \d+ tokens; .* 'demo'", done.stderr)


@pytest.mark.spec("S0-13")
def test_tls(scripted: Scripted, tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1",
         "-subj", "/CN=localhost", "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    with serving(
        scripted().path, "--ssl-certfile", str(certificate), "--ssl-keyfile", str(key)
    ) as server:
        assert server.url.startswith("https://")
        assert server.get("/readyz", verify=False).status_code == 200


def test_an_api_key_is_needed_once_set(scripted: Scripted) -> None:
    with serving(scripted().path, "--api-key", "one", "--api-key", "two") as server:
        assert server.get("/v1/models").status_code == 401
        for key in ("one", "two"):
            header = {"Authorization": f"Bearer {key}"}
            assert server.get("/v1/models", headers=header).status_code == 200
        assert server.get("/livez").status_code == 200


@pytest.mark.reliability("F-05")
def test_a_crash_is_an_error_and_readiness_follows(scripted: Scripted) -> None:
    with serving(scripted("one").path, "--max-concurrency", "64") as server:
        (runner,) = runners(server.process.pid)
        client = OpenAI(base_url=server.url + "/v1", api_key="EMPTY", max_retries=0)
        with client:
            stream = client.completions.create(model="one", prompt="long", stream=True)
            next(iter(stream))
            runner.kill()
            with pytest.raises(Exception, match="ended unexpectedly"):
                list(stream)
        wait_until(lambda: server.get("/readyz").status_code == 200)
        assert server.post("/complete", {"prompt": "again"}).json()["choices"] == [
            "You said: again"
        ]


@pytest.mark.spec("S2-33")
def test_curl_lists_models_and_chats(scripted: Scripted) -> None:
    with serving("Qwen1.5-0.5B-Chat=" + scripted().path, "--host", "127.0.0.1") as server:
        curl = ["curl", "--silent", "--fail", "-H", "Content-Type: application/json"]
        body = '{"model": "Qwen1.5-0.5B-Chat", "messages": [{"role": "user", "content": "Hello!"}]}'
        models, chat = (
            json.loads(subprocess.run([*curl, *rest], capture_output=True, check=True).stdout)
            for rest in (
                [server.url + "/v1/models"],
                [server.url + "/v1/chat/completions", "-d", body],
            )
        )
    assert [each["id"] for each in models["data"]] == ["Qwen1.5-0.5B-Chat"]
    assert chat["choices"][0]["message"]["content"] == "You said: Hello!"


START = """
import sys, open_llm_server
open_llm_server.start(model=sys.argv[1], port=0, max_concurrency=2, temperature=0.5)
"""


@pytest.mark.spec("S3-06")
def test_one_call_starts_a_server(scripted: Scripted) -> None:
    with started([sys.executable, "-c", START, scripted().path]) as server:
        answer = server.post("/chat", {"prompt": "Hi"}).json()
    assert answer["message"] == "You said: Hi"
    assert answer["configuration"]["temperature"] == 0.5


def test_start_from_python_names_a_wrong_option() -> None:
    with pytest.raises(ValueError, match=r"unknown option 'porrt'; did you mean 'port'"):
        openllm.start(model="demo", porrt=5000)
