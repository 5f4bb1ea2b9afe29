"""`openllm bench` as a user types it: tables, files, exit codes and one-line errors."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from openllm.cli import main
from tests.api.bench_peer import Peer, running
from tests.ports import held_port
from tests.waiting import wait_until

MAIN = "from openllm.cli import main; main()"
FAST = ["--requests", "4", "--concurrency", "2", "--warmup", "0"]


def call(*arguments: str) -> Result:
    return CliRunner(env={"OPEN_LLM_API_KEY": None}).invoke(main, ["bench", *arguments])


def test_table_json_and_plot(tmp_path: Path) -> None:
    files = [str(tmp_path / "run.json"), str(tmp_path / "run.png")]
    with running(Peer()) as peer:
        done = call(
            peer.url, *FAST, "--goodput", "ttft:900", "--json", files[0], "--plot", files[1]
        )
    assert done.exit_code == 0, done.output
    for part in ("TTFT", "ITL", "TPOT", "p99", "output tokens/s", "goodput", "approximately 32"):
        assert part in done.stdout
    found = json.loads(Path(files[0]).read_text())
    assert found["servers"][0]["summary"]["completed"] == 4
    assert found["settings"]["goodput"] == {"ttft": 900.0}
    assert Path(files[1]).read_bytes().startswith(b"\x89PNG")


def test_two_servers_are_compared() -> None:
    with running(Peer()) as one, running(Peer(key="k2")) as two:
        refused = call(one.url, *FAST, "--compare", two.url, "--api-key", "k2")
        done = call(one.url, *FAST, "--compare", two.url, "--compare-api-key", "k2")
    assert refused.exit_code == 1
    assert "401" in refused.output
    assert done.exit_code == 0, done.output
    assert "output tokens/s, A / B" in done.stdout
    assert len(two.requests) == 16


def test_ignore_eos_and_lengths_are_sent() -> None:
    with running(Peer()) as peer:
        done = call(
            peer.url, *FAST, "--ignore-eos", "--output-tokens", "3:4", "--endpoint", "completions"
        )
    assert done.exit_code == 0, done.output
    assert all(one["ignore_eos"] and one["max_tokens"] in (3, 4) for one in peer.requests)


def test_the_key_comes_from_the_environment() -> None:
    with running(Peer(key="k1")) as peer:
        done = CliRunner(env={"OPEN_LLM_API_KEY": "k1"}).invoke(main, ["bench", peer.url, *FAST])
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    ("peer", "arguments", "message", "status"),
    [
        (Peer(key="k1"), ["--api-key", "wrong"], "a key is needed", 1),
        (Peer(models=()), [], "lists no model", 1),
        (Peer(models_status=404), [], "--model names the model", 1),
        (Peer(status=400), ["--warmup", "1"], "failed the warm-up: status 400: no such luck", 2),
        (Peer(status=404), [], "succeeded: status 404: no such luck", 2),
        (Peer(status=503), [], "succeeded: status 503: no such luck", 1),
        (Peer(fault="error"), [], "the engine fell over", 1),
    ],
    ids=["key", "empty", "unlisted", "warm-up", "refused", "busy", "all-fail"],
)
def test_what_the_server_refuses_is_one_line(
    peer: Peer, arguments: list[str], message: str, status: int
) -> None:
    with running(peer):
        done = call(peer.url, *FAST, *arguments)
    assert done.exit_code == status
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert isinstance(done.exception, SystemExit)


def test_a_model_that_is_named_need_not_be_listed() -> None:
    with running(Peer(models_status=404)) as peer:
        done = call(peer.url, *FAST, "--model", "mine")
    assert done.exit_code == 0, done.output
    assert peer.requests[0]["model"] == "mine"


def test_nobody_listening_is_one_line() -> None:
    with held_port() as held:
        done = call(f"http://127.0.0.1:{held.getsockname()[1]}/v1")
    assert done.exit_code == 1
    assert done.stderr.count("\n") == 1
    assert "refused" in done.stderr


@pytest.mark.parametrize("url", ["nonsense", "ftp://127.0.0.1/v1", "http://127.0.0.1:99999/v1"])
def test_a_bad_url_is_a_usage_error(url: str) -> None:
    done = call(url)
    assert done.exit_code == 2
    assert repr(url) in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--rate", "5", "--concurrency", "2"],
        ["--burstiness", "2"],
        ["--compare-model", "x"],
        ["--rate", "0"],
        ["--rate", "nan"],
        ["--concurrency", "0"],
        ["--requests", "100001"],
        ["--duration", "0"],
        ["--prompt-tokens", "9:3"],
        ["--output-tokens", "many"],
        ["--output-tokens", "0"],
        ["--goodput", "latency:3"],
        ["--goodput", "ttft"],
        ["--goodput", "ttft:1", "--goodput", "ttft:2"],
        ["--endpoint", "embeddings"],
        ["--prompt-file", "no/such/file"],
        ["--json", "no/such/folder/run.json"],
        ["--plot", "no/such/folder/run.png"],
        ["--no-such-option"],
    ],
    ids=" ".join,
)
def test_usage_errors_exit_2_before_anything_is_sent(arguments: list[str]) -> None:
    done = call("http://127.0.0.1:9/v1", *arguments)
    assert done.exit_code == 2
    assert "Error: " in done.stderr


def test_ctrl_c_reports_what_was_measured(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    with running(Peer(first=0.05)) as peer:
        child = subprocess.Popen(
            [sys.executable, "-c", MAIN, "bench", peer.url, "--duration", "60", "--json", path],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "NO_COLOR": "1"},
        )
        with child:
            try:
                wait_until(lambda: len(peer.requests) >= 40 or child.poll() is not None, 60)
                child.send_signal(signal.SIGINT)
                out, err = child.communicate(timeout=60)
            finally:
                child.kill()
    assert child.returncode == 130, err
    assert "interrupted" in out
    assert "Traceback" not in err
    found = json.loads(path.read_text())
    assert found["interrupted"] is True
    assert found["servers"][0]["summary"]["completed"] >= 20
    assert found["servers"][0]["summary"]["failed"] == 0
