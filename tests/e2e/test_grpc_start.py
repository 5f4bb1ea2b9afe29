"""`openllm start --grpc` as a real process."""

from __future__ import annotations

import shlex
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from google.protobuf import json_format

import openllm
from openllm.server.proto import openllm_pb2 as pb
from openllm.types import LocalModel
from tests.api.grpc_peer import (
    GOAWAY,
    HEADERS,
    RST_STREAM,
    Peer,
    Wire,
    chat,
    connected,
    frame,
    head,
    status,
)
from tests.e2e.server_process import COMMAND, ServerProcess, run, serving
from tests.processes import alive_after
from tests.waiting import wait_until

Scripted = Callable[..., LocalModel]
QUESTION = "What is the capital of France?"


@contextmanager
def grpc_serving(*arguments: str, **options: Any) -> Iterator[tuple[ServerProcess, Peer]]:
    with serving(*arguments, "--grpc", **options) as server, connected(server.ready["port"]) as it:
        yield server, it


@pytest.fixture(scope="module")
def demo() -> Iterator[tuple[ServerProcess, Peer]]:
    with grpc_serving() as both:
        yield both


@pytest.mark.spec("S0-35")
def test_the_bundled_model_is_served(demo: tuple[ServerProcess, Peer]) -> None:
    server, peer = demo
    assert server.ready["models"] == ["demo"]
    assert server.ready["ready"] == f"grpc://127.0.0.1:{server.ready['port']}"
    command = shlex.split(server.ready["try"])
    assert command[:3] == ["grpcurl", "-plaintext", "-d"]
    assert command[4:] == [f"127.0.0.1:{peer.port}", "openllm.v1.OpenLLM/ChatCompletion"]
    printed = json_format.Parse(command[3], pb.ChatCompletionRequest())
    assert peer.call("ChatCompletion", printed).choices[0].finish_reason == "stop"
    request = chat(QUESTION, temperature=0.0)
    answer = peer.call("ChatCompletion", request)
    assert "Paris" in answer.choices[0].message.content
    parts = list(peer.stream("ChatCompletionStream", request))
    text = "".join(each.delta.content for part in parts for each in part.choices)
    assert text == answer.choices[0].message.content


@pytest.mark.spec("S0-35")
@pytest.mark.reliability("C-25")
def test_http_grpc_the_command_and_the_class_answer_alike(
    demo: tuple[ServerProcess, Peer],
) -> None:
    _, peer = demo
    answer = peer.call("ChatCompletion", chat(QUESTION, temperature=0.0, max_tokens=12))
    mine = answer.choices[0]
    with serving() as http:
        body = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 12}
        reply = http.post("/v1/chat/completions", {**body, "temperature": 0}).json()
        said = run("query", "--url", http.url, "--temperature", "0", "--max-tokens", "12", QUESTION)
    theirs = reply["choices"][0]
    assert mine.message.content == theirs["message"]["content"]
    assert mine.finish_reason == theirs["finish_reason"]
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert getattr(answer.usage, name) == reply["usage"][name]
    assert said.stdout.strip() == mine.message.content
    llm = openllm.LLM("demo")
    turns = [{"role": "user", "content": QUESTION}]
    try:
        direct = llm.sync_generate(messages=turns, temperature=0, max_tokens=12)
    finally:
        llm.sync_close()
    assert direct.outputs[0].text == mine.message.content
    assert direct.outputs[0].finish_reason == mine.finish_reason


@pytest.mark.reliability("F-24")
def test_a_cancelled_stream_frees_its_place_in_the_model(scripted: Scripted) -> None:
    model = scripted(tokens_per_second=20)
    with grpc_serving(model.path, "--max-concurrency", "1") as (_, peer):
        call = peer.stream("CompletionStream", pb.CompletionRequest(prompt=["long"]))
        next(call)
        call.cancel()
        # By itself, the place would be free after minutes.
        answer = peer.call("Completion", pb.CompletionRequest(prompt=["hello"]), timeout=60)
        assert answer.choices[0].text


def test_sigterm_ends_server_and_runner(scripted: Scripted) -> None:
    options = {"stderr": subprocess.PIPE}
    with grpc_serving(scripted().path, "--access-log", **options) as (server, peer):
        peer.call("ListModels", pb.ListModelsRequest())
        with Wire(server.ready["port"]) as wire:
            wire.send(frame(HEADERS, 4, 1, head(b"/a", (b"te", b"\x1b[31m"))))
            wire.first(HEADERS, RST_STREAM, GOAWAY)
        children = psutil.Process(server.process.pid).children(recursive=True)
        assert children
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0
        alive = alive_after(children)
        assert server.process.stderr is not None
        said = server.process.stderr.read()
    assert not alive
    assert '"path": "/openllm.v1.OpenLLM/ListModels", "status": "OK"' in said
    assert "\x1b" not in said
    assert "Traceback" not in said


def test_a_short_stream_is_finished_after_sigterm_and_a_long_one_is_told(
    scripted: Scripted,
) -> None:
    model = scripted(tokens_per_second=50)
    with grpc_serving(model.path, "--timeout-graceful-shutdown", "5") as (server, peer):
        long = peer.stream("CompletionStream", pb.CompletionRequest(prompt=["long"]))
        brief = peer.stream("CompletionStream", pb.CompletionRequest(prompt=["hello you"]))
        next(long), next(brief)
        server.process.send_signal(signal.SIGTERM)
        assert list(brief)[-1].HasField("usage")
        with pytest.raises(grpc.RpcError) as raised:
            list(long)
        assert status(raised.value)[:2] == ("UNAVAILABLE", "the server is shutting down")
        assert server.process.wait(30) == 0


@pytest.mark.reliability("F-14")
def test_a_port_in_use_is_found_before_anything_is_loaded(scripted: Scripted) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        done = run("start", scripted(load_seconds=30).path, "--grpc", "--port", str(port))
    assert done.returncode == 2
    assert f"port {port} on 127.0.0.1 is in use" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_two_servers_do_not_share_a_port(demo: tuple[ServerProcess, Peer]) -> None:
    done = run("start", "--grpc", "--port", str(demo[0].ready["port"]))
    assert done.returncode == 2
    assert "is in use" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["--allowed-origin", "https://a.example"],
        ["--allowed-host", "a.example"],
        ["--allow-pull"],
        ["--perplexity"],
    ],
    ids=lambda each: each[0],
)
def test_options_that_mean_nothing_here_are_refused(arguments: list[str]) -> None:
    done = run("start", "--grpc", *arguments)
    assert done.returncode == 2
    assert arguments[0] in done.stderr
    assert "with --grpc" in done.stderr
    assert len(done.stderr.splitlines()) == 1


WITHOUT = """
import sys
sys.modules["grpc"] = None  # As where it is not installed.
from openllm.cli import main
main(prog_name="openllm")
"""


def test_a_missing_package_is_named_before_anything_is_loaded() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, "start", "--grpc", "--port", "0"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "--grpc needs grpcio" in done.stderr
    assert "pip install 'open-llm-server[grpc]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.fixture(scope="module")
def pems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of cert.pem, for localhost, its key.pem, and that under a password: locked.pem."""
    folder = tmp_path_factory.mktemp("pems")
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1"
        " -subj /CN=localhost -addext subjectAltName=DNS:localhost -keyout key.pem -out cert.pem"
        " && openssl pkcs8 -topk8 -in key.pem -out locked.pem -passout pass:sesame"
    )
    subprocess.run(["sh", "-c", command], cwd=folder, check=True, capture_output=True)
    return folder


def secure_models(port: int, pems: Path, *, certificate: bool) -> list[str]:
    own = (pems / "key.pem").read_bytes(), (pems / "cert.pem").read_bytes()
    credentials = grpc.ssl_channel_credentials(
        (pems / "cert.pem").read_bytes(), *(own if certificate else (None, None))
    )
    options = (("grpc.use_local_subchannel_pool", 1),)
    with grpc.secure_channel(f"localhost:{port}", credentials, options=options) as channel:
        models = Peer(None, port, channel).call("ListModels", pb.ListModelsRequest())
    return [each.id for each in models.models]


def test_tls_has_the_options_of_https(scripted: Scripted, pems: Path) -> None:
    options = (
        "--ssl-certfile", str(pems / "cert.pem"), "--ssl-keyfile", str(pems / "locked.pem"),
        "--ssl-keyfile-password", "sesame", "--ssl-ciphers", "ECDHE-ECDSA-AES128-GCM-SHA256",
    )  # fmt: skip
    with serving(scripted().path, "--grpc", *options) as server:
        port = server.ready["port"]
        assert server.ready["ready"].startswith("grpcs://")
        assert secure_models(port, pems, certificate=False) == ["scripted"]
        context = ssl.create_default_context(cafile=str(pems / "cert.pem"))
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["h2"])
        context.set_ciphers("ECDHE+AESGCM")
        with (
            socket.create_connection(("localhost", port), 30) as sock,
            context.wrap_socket(sock, server_hostname="localhost") as tls,
        ):
            cipher = tls.cipher()
            assert cipher is not None
            assert cipher[0] == "ECDHE-ECDSA-AES128-GCM-SHA256"


def test_a_certificate_of_the_client_can_be_required(scripted: Scripted, pems: Path) -> None:
    options = (
        "--ssl-certfile", str(pems / "cert.pem"), "--ssl-keyfile", str(pems / "key.pem"),
        "--ssl-ca-certs", str(pems / "cert.pem"), "--ssl-cert-reqs", "2",
    )  # fmt: skip
    with serving(scripted().path, "--grpc", *options) as server:
        port = server.ready["port"]
        assert secure_models(port, pems, certificate=True) == ["scripted"]
        with pytest.raises(grpc.RpcError) as raised:
            secure_models(port, pems, certificate=False)
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_model_that_dies_fails_its_streams_alone(scripted: Scripted) -> None:
    with grpc_serving(f"{scripted('one').path},{scripted('two').path}") as (_, peer):
        other = peer.stream("CompletionStream", pb.CompletionRequest(model="two", prompt=["long"]))
        next(other)
        with pytest.raises(grpc.RpcError) as raised:
            list(peer.stream("CompletionStream", pb.CompletionRequest(prompt=["die"])))
        code, _, metadata = status(raised.value)
        assert (code, metadata["error-code"]) == ("UNAVAILABLE", "engine_crashed")
        assert next(other)
        other.cancel()


def test_without_a_model_the_server_ends(scripted: Scripted) -> None:
    model = scripted(load_fault={"kind": "error", "message": "no such architecture"})
    done = subprocess.run(
        [*COMMAND, "start", model.path, "--grpc", "--port", "0"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "no such architecture" in done.stderr


def test_keys_are_read_again_on_sighup(scripted: Scripted, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("old\n")
    keys.chmod(0o600)
    with grpc_serving(scripted().path, "--api-key-file", str(keys)) as (server, peer):

        def served(key: str) -> bool:
            metadata = (("x-api-key", key),)
            call = partial(peer.call, "ListModels", pb.ListModelsRequest(), metadata=metadata)
            try:
                return bool(call().models)
            except grpc.RpcError as error:
                if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                    return False
                raise

        assert served("old")
        keys.write_text("new\n")
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: served("new"))
        assert not served("old")
