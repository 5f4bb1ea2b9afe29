"""`openllm query` against a small server: output, exit codes, and stopping."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import Any

import pytest
from click.testing import CliRunner, Result
from starlette.requests import Request
from starlette.responses import Response

from open_llm_client.protocol import ChatOptions
from openllm.cli import main
from openllm.cli.query import query
from tests.unit.client.loopback_peer import Peer, event, failing, sending


def run(peer: Peer, *arguments: str, stdin: str | bytes = "") -> Result:
    command = ["query", "--url", peer.url, *arguments]
    return CliRunner().invoke(main, command, input=stdin)


def test_the_answer_is_streamed_to_stdout(peer: Peer) -> None:
    result = run(peer, "Who", "are", "you?")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "Hello, world\u2028!\n", "")
    assert peer.requests[0][1] == "/chat-sse"
    assert peer.bodies == [{"prompt": "Who are you?"}]


@pytest.mark.parametrize("arguments", [(), ("-",)])
def test_a_piped_question_is_read(peer: Peer, arguments: tuple[str, ...]) -> None:
    assert run(peer, *arguments, stdin="Who are you?\nAnd I?\n").exit_code == 0
    assert peer.bodies == [{"prompt": "Who are you?\nAnd I?"}]


def test_an_answer_at_once(peer: Peer) -> None:
    assert run(peer, "--no-stream", "Hi").stdout == "Hello, world!\n"
    assert peer.requests[0][1] == "/chat"


def test_json_is_the_answer_of_the_server(peer: Peer) -> None:
    written = json.loads(run(peer, "--json", "--temperature", "0", "Hi").stdout)
    expected = {"prompt": "Hi", "temperature": 0.0}
    assert written == {"message": "Hello, world!", "configuration": expected}


def test_flags_reach_the_server_in_both_spellings(peer: Peer) -> None:
    flags = ["--top_k", "3", "--top-p", "0.15", "--stop_sequence", "--", "--max_tokens", "9"]
    more = ["--frequency-penalty", "0.1", "--presence_penalty", "0.2", "--seed", "1"]
    run(peer, *flags, *more, "--model", "large", "Hi")
    assert peer.bodies == [
        {
            "prompt": "Hi",
            "model": "large",
            "top_k": 3,
            "top_p": 0.15,
            "stop_sequence": ["--"],
            "max_tokens": 9,
            "frequency_penalty": 0.1,
            "presence_penalty": 0.2,
            "seed": 1,
        }
    ]


def test_flags_have_the_names_and_limits_of_the_settings(peer: Peer) -> None:
    assert run(peer, "--max-new-tokens", "4", "--stop", "a", "--stop", "b", "Hi").exit_code == 0
    assert peer.bodies == [{"prompt": "Hi", "max_tokens": 4, "stop_sequence": ["a", "b"]}]
    refused = run(peer, "--temperature", "nan", "--top-k", "-1", "Hi")
    assert refused.exit_code == 2
    assert "- --temperature 'nan' must be a number from 0 to 1\n" in refused.stderr
    assert "- --top-k '-1' must be a whole number, 0 or more\n" in refused.stderr
    assert len(peer.bodies) == 1


def test_every_option_of_the_client_is_a_flag() -> None:
    flags = {parameter.name for parameter in query.params}
    assert ChatOptions.__optional_keys__ - {"messages", "echo"} <= flags


def test_environment_names_server_and_key(peer: Peer) -> None:
    environment = {"OPEN_LLM_URL": peer.url, "OPEN_LLM_API_KEY": "secret"}
    assert CliRunner().invoke(main, ["query", "Hi"], env=environment).exit_code == 0
    assert peer.requests[0][2]["authorization"] == "Bearer secret"


@pytest.mark.parametrize(
    ("arguments", "stdin", "said"),
    [
        (["query"], b" \n", "question is empty"),
        (["query"], b"\xff", "not UTF-8"),
        (["query", "--url", "ftp://x", "Hi"], b"", "scheme 'ftp'"),
        (["query", "--top-k", "many", "Hi"], b"", "--top-k"),
        (["query", "--nonsense", "Hi"], b"", "--nonsense"),
    ],
)
def test_wrong_usage_ends_with_2(arguments: list[str], stdin: bytes, said: str) -> None:
    result = CliRunner().invoke(main, arguments, input=stdin)
    assert result.exit_code == 2
    assert said in result.stderr


@pytest.mark.parametrize("mode", ["--no-stream", "--json", "--seed=1"])
def test_no_server_is_one_line_with_the_fix(mode: str) -> None:
    result = CliRunner().invoke(main, ["query", "--url", "http://127.0.0.1:9", mode, "Hi"])
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr == (
        "Error: cannot reach http://127.0.0.1:9: "
        "start a server with `openllm start`, or give its --url\n"
    )


@pytest.mark.parametrize(
    ("status", "said", "ends"),
    [
        (400, "it is too hot [HTTP 400, request req-7]\n", 2),
        (404, "it is too hot", 2),
        (401, "--api-key", 1),
        (503, "it is too hot", 1),
    ],
)
def test_a_refusal_is_one_line(peer: Peer, status: int, said: str, ends: int) -> None:
    peer.answers += [failing(status, "it is too hot")] * 9
    result = run(peer, "Hi")
    assert result.exit_code == ends
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


def test_what_came_before_an_error_is_kept(peer: Peer) -> None:
    peer.answers.append(sending(event({"text": "Hel"}) + event({"error": {"message": "no"}})))
    result = run(peer, "Hi")
    assert (result.exit_code, result.stdout) == (1, "Hel\n")


def test_control_characters_survive_a_pipe(peer: Peer) -> None:
    peer.answers.append(sending(event({"text": "\x1b[31m\x07"}) + event({"configuration": {}})))
    assert run(peer, "Hi").stdout == "\x1b[31m\x07\n"


def test_ctrl_c_stops_the_server_and_ends_with_130(peer: Peer) -> None:
    async def endless(_: Request) -> Response:
        return peer.stream(["word "] * 5000, {}, pause=0.02)

    peer.answers.append(endless)
    process = _start("query", "--url", peer.url, "Hi")
    assert process.stdout.read(5) == "word "
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out.endswith("\n")
    assert err == ""
    assert peer.abandoned.wait(20)


def _start(*arguments: str) -> Any:
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += "from openllm.cli import main; main(prog_name='openllm')"
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
