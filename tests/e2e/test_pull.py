"""`openllm pull` and POST /pull against a hub on loopback, the real client library between them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

import pytest

from tests.hub_puller import environment
from tests.hub_server import HubServer

WEIGHTS = files("openllm").joinpath("demo", "demo-q8_0.gguf").read_bytes()


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        server.add_repo("org/tiny", {"tiny-q8_0.gguf": WEIGHTS})
        server.add_repo("org/other", {"other-q8_0.gguf": WEIGHTS})
        yield server


@contextmanager
def pulling(home: Path, hub: HubServer, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "openllm.cli", "pull", *arguments],
        env=environment(home, hub.url),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def pull(home: Path, hub: HubServer, *arguments: str) -> tuple[int, str, str]:
    with pulling(home, hub, *arguments) as process:
        out, errors = process.communicate(timeout=120)
    return process.returncode, out, errors


def test_a_model_is_pulled_once(hub: HubServer, tmp_path: Path) -> None:
    status, out, errors = pull(tmp_path, hub, "org/tiny")
    assert (status, out.startswith("llamacpp-org--tiny:")) == (0, True), errors
    assert "org/tiny" in errors
    asked = hub.body_bytes
    assert asked >= len(WEIGHTS)
    assert pull(tmp_path, hub, "org/tiny") == (0, out, "")
    assert hub.body_bytes == asked


def test_json_events_end_with_the_tag(hub: HubServer, tmp_path: Path) -> None:
    status, out, errors = pull(tmp_path, hub, "--json", "org/tiny", "org/other")
    assert (status, errors) == (0, "")
    events = [json.loads(line) for line in out.splitlines()]
    tags = [event["tag"] for event in events if "tag" in event]
    assert [tag.partition(":")[0] for tag in tags] == ["llamacpp-org--tiny", "llamacpp-org--other"]
    assert {"listing", "downloading", "verifying", "done"} <= {
        event.get("phase") for event in events
    }


def test_one_wrong_name_of_several_downloads_nothing(hub: HubServer, tmp_path: Path) -> None:
    status, out, errors = pull(tmp_path, hub, "org/tiny", "org/absent")
    assert (status, out) == (2, "")
    assert "org/absent" in errors
    assert "Traceback" not in errors
    assert hub.body_bytes < len(WEIGHTS)


@pytest.mark.reliability("F-08")
def test_after_ctrl_c_the_next_goes_on(hub: HubServer, tmp_path: Path) -> None:
    hub.faults.rate = len(WEIGHTS) // 4
    with pulling(tmp_path, hub, "org/tiny", "--json") as process:
        assert process.stdout is not None
        for line in process.stdout:
            if json.loads(line).get("done", 0) > len(WEIGHTS) // 8:
                break
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "what has been downloaded is kept" in errors
    assert "Traceback" not in errors
    hub.faults.clear()
    before = hub.body_bytes
    status, _, errors = pull(tmp_path, hub, "org/tiny")
    assert status == 0, errors
    assert hub.body_bytes - before < len(WEIGHTS)


@pytest.mark.reliability("S-29")
def test_the_token_is_nowhere_to_be_seen(hub: HubServer, tmp_path: Path) -> None:
    status, out, errors = pull(tmp_path, hub, "org/absent", "--hub-token", "hf_secretsecret99")
    assert status in (1, 2)
    assert "Error: " in errors
    assert "secretsecret" not in out + errors


def test_doctor_reaches_the_hub(hub: HubServer, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "openllm.cli", "doctor", "--json"],
        env={**os.environ, **environment(tmp_path, hub.url)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    (found,) = [each for each in json.loads(done.stdout)["checks"] if each["name"] == "hub"]
    assert (found["status"], "answers in" in found["text"]) == ("ok", True)
