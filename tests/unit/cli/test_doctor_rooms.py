"""What `openllm doctor` says of the network, the store and the machine."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from openllm.cli import doctor_machine as machine
from openllm.cli import doctor_network as network
from openllm.cli import doctor_store as store
from openllm.cli.doctor_check import Topic, examine
from openllm.cli.doctor_settings import SettingsHere
from openllm.config.download import DownloadOptions
from openllm.config.server import ServerSettings

GIB = 1 << 30


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in network._PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr(network, "LIMIT", 30.0)
    monkeypatch.delenv("HF_TOKEN_PATH", raising=False)
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)


@contextmanager
def answering(status: int) -> Iterator[tuple[str, list[Any]]]:
    seen: list[Any] = []

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            seen.append(dict(self.headers))
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", seen
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.reliability("S-29")
@pytest.mark.parametrize("status", [200, 302, 401, 404])
def test_a_hub_that_answers_is_reached_and_gets_no_token(
    status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret123456")
    with answering(status) as (url, seen):
        check = network.hub(DownloadOptions(hub_endpoint=url))
    assert check.status == "ok"
    assert "answers in" in check.text
    assert "secret" not in str(seen)


def test_a_hub_that_fails_or_is_away_is_a_warning_with_a_way_out() -> None:
    with answering(503) as (url, _):
        assert network.hub(DownloadOptions(hub_endpoint=url)).status == "warn"
    check = network.hub(DownloadOptions(hub_endpoint=url))
    assert check.status == "warn"
    assert "cannot be reached" in check.text
    assert "HF_ENDPOINT" in check.fix


def test_a_wrong_address_in_the_environment_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "nonsense")
    check = network.hub(DownloadOptions())
    assert check.status == "fail"
    assert "HF_ENDPOINT" in check.fix


def test_offline_mode_is_said_and_asks_nobody() -> None:
    check = network.hub(DownloadOptions(hub_endpoint="http://127.0.0.1:1", offline=True))
    assert check.status == "off"
    assert "offline" in check.text


@pytest.mark.reliability("S-29")
def test_proxies_are_shown_without_their_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://me:hidden@proxy.example:3128")
    (finding,) = examine([Topic("Hub", network.proxies)], 60)
    assert finding.check.text == "https_proxy=http://***@proxy.example:3128"


def test_a_missing_certificate_file_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/no/such.pem")
    check = network.proxies()[-1]
    assert (check.status, check.name) == ("warn", "certificates")
    assert "/no/such.pem" in check.text


@pytest.mark.reliability("S-29")
@pytest.mark.parametrize(("mode", "status"), [(0o600, "ok"), (0o644, "warn")])
def test_a_token_that_others_can_read_is_a_warning(tmp_path: Path, mode: int, status: str) -> None:
    token = tmp_path / "token"
    token.write_text("hf_secret123456")
    token.chmod(mode)
    (check,) = network.token()
    assert check.status == status
    assert "secret" not in check.text + check.fix


def test_a_taken_port_is_a_warning() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        (check,) = network.look_at_port(ServerSettings(port=port))
    assert check.status == "warn"
    assert f"port {port} on 127.0.0.1 is in use" in check.text
    assert "--port" in check.fix
    (check,) = network.look_at_port(ServerSettings(port=port))
    assert (check.status, check.text) == ("ok", f"{port} on 127.0.0.1 is free")


def test_an_address_of_another_machine_fails() -> None:
    (check,) = network.look_at_port(ServerSettings(host="192.0.2.1", port=0))
    assert (check.status, "'192.0.2.1' is not an address" in check.text) == ("fail", True)


def server() -> ServerSettings:
    return SettingsHere({}).server()


def test_the_port_is_the_one_that_start_would_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert server().port == 5000
    file = tmp_path / "server.yaml"
    file.write_text("port: 5017\nhost: 0.0.0.0\napi_key: some-key\n")
    monkeypatch.setenv("OPEN_LLM_CONFIGURATION", str(file))
    assert (server().host, server().port) == ("0.0.0.0", 5017)
    monkeypatch.setenv("OPEN_LLM_PORT", "5018")
    assert server().port == 5018
    monkeypatch.setenv("OPEN_LLM_PORT", "x")
    assert server().port == 5000


def test_a_store_that_is_not_there_yet_is_fine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "a" / "b"))
    checks = {check.name: check for check in store.look_at_store()}
    assert checks["folder"].status == "ok"
    assert "made with the first download" in checks["folder"].text
    assert checks["models"].status == "off"
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(("free", "status"), [(100, "ok"), (2, "warn"), (0.1, "fail")])
def test_little_room_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: float, status: str
) -> None:
    class Usage(NamedTuple):
        total: int
        free: int

    usage = Usage(200 * GIB, int(free * GIB))
    monkeypatch.setattr(store.shutil, "disk_usage", lambda _: usage)
    check = store._room(tmp_path)
    assert check.status == status
    assert (check.fix != "") == (status != "ok")


def test_a_processor_without_avx2_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("processor : 0\nflags\t\t: fpu avx sse\n")
    monkeypatch.setattr(machine, "_CPU_INFO", info)
    monkeypatch.setattr(machine.platform, "machine", lambda: "x86_64")
    assert machine.processor().status == "warn"
    info.write_text("flags\t\t: fpu avx avx2\n")
    assert machine.processor().status == "ok"


def nvidia_smi(folder: Path, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_cards_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_smi(tmp_path, "echo 'NVIDIA H200, 143771, 143000, 570.1, 9.0'", monkeypatch)
    (check,) = machine.cards()
    assert check.status == "ok"
    assert check.text == ("NVIDIA H200, 139.6 GiB free of 140.4 GiB, driver 570.1, compute 9.0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    (check,) = machine.cards()
    assert (check.status, "hidden" in check.text) == ("warn", True)


@pytest.mark.parametrize(
    ("body", "says"),
    [("echo 'no driver'; exit 9", "no driver"), ("sleep 60", "does not answer within 0.5 s")],
)
def test_a_broken_driver_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, says: str
) -> None:
    monkeypatch.setattr(machine, "_SMI_LIMIT", 0.5)
    nvidia_smi(tmp_path, f"exec sh -c {body!r}" if "sleep" not in body else f"exec {body}",
               monkeypatch)  # fmt: skip
    (check,) = machine.cards()
    assert check.status == "fail"
    assert says in check.text
    assert check.fix
