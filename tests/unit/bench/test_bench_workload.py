"""What is sent, to where, and when."""

from __future__ import annotations

import json
import statistics
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from openllm.bench.http_client import parse_target
from openllm.bench.load import request_body
from openllm.bench.settings import BenchSettings, LengthRange
from openllm.bench.workload import Job, PromptFit, arrivals, jobs, read_prompts
from openllm.errors import ConfigurationError


def test_same_seed_and_round_give_the_same_jobs() -> None:
    settings = BenchSettings(requests=5, output_tokens=LengthRange(1, 1000))
    first = list(jobs(settings, 0, PromptFit()))
    assert first == list(jobs(settings, 0, PromptFit()))
    assert first != list(jobs(settings, 1, PromptFit()))
    assert len({job.prompt for job in first}) == 5


def test_lengths_stay_in_their_range() -> None:
    settings = BenchSettings(
        requests=200, prompt_tokens=LengthRange(5, 9), output_tokens=LengthRange(2, 4)
    )
    made = list(jobs(settings, 0, PromptFit()))
    assert {len(job.prompt.split()) for job in made} == {5, 6, 7, 8, 9}
    assert {job.output_tokens for job in made} == {2, 3, 4}


def test_prompts_fit_the_tokenizer_and_the_template_of_the_server() -> None:
    fit = PromptFit()
    fit.learn(100, 320)
    assert fit.words(32) == 10
    fit.learn(10, 50)
    assert fit.words(320) == 100
    assert fit.words(50) == 10
    assert fit.words(1) == 1


def test_prompts_of_a_file_are_used_in_turn() -> None:
    settings = BenchSettings(requests=3, prompts=("a", "b"))
    assert [job.prompt for job in jobs(settings, 0, PromptFit())] == ["a", "b", "a"]
    assert [job.prompt for job in jobs(settings, 1, PromptFit())] == ["b", "a", "b"]


@pytest.mark.parametrize("burstiness", [0.5, 1.0, 4.0])
def test_arrivals_have_the_rate_and_the_burstiness(burstiness: float) -> None:
    settings = BenchSettings(concurrency=None, rate=20.0, burstiness=burstiness)
    times = list(islice(arrivals(settings, 20.0, 0), 4000))
    pauses = [after - before for before, after in zip([0.0, *times], times, strict=False)]
    assert statistics.fmean(pauses) == pytest.approx(1 / 20, rel=0.1)
    variation = statistics.pstdev(pauses) / statistics.fmean(pauses)
    assert variation == pytest.approx(burstiness**-0.5, rel=0.1)


def test_prompt_files(tmp_path: Path) -> None:
    lines = tmp_path / "prompts.txt"
    lines.write_text("one\n\n two \n")
    assert read_prompts(lines) == ("one", " two ")
    objects = tmp_path / "prompts.jsonl"
    objects.write_text('{"prompt": "a\\nb"}\n')
    assert read_prompts(objects) == ("a\nb",)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"\n", "holds no prompt"),
        ("a.txt", b"\xff\xfe", "cannot read"),
        ("a.jsonl", b'{"prompt": "x"}\n\nnope\n', "line 3"),
        ("a.jsonl", b'{"text": "x"}\n', '"prompt"'),
    ],
)
def test_bad_prompt_files_are_named(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=message):
        read_prompts(path)


def sent(**changes: Any) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(request_body(Job("hi", 9), "m", BenchSettings(**changes)))
    return body


def test_a_chat_request() -> None:
    assert sent() == {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 9,
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.0,
    }


def test_optional_fields_are_sent_only_if_asked_for() -> None:
    body = sent(endpoint="completions", ignore_eos=True, temperature=None)
    assert body["prompt"] == "hi"
    assert body["ignore_eos"] is True
    assert "temperature" not in body
    assert "ignore_eos" not in sent(endpoint="completions")


def test_a_url_is_taken_apart() -> None:
    target = parse_target("http://127.0.0.1:5000/v1/", "key")
    assert (target.host, target.port, target.path, target.tls) == ("127.0.0.1", 5000, "/v1", False)
    assert b"Host: 127.0.0.1:5000\r\n" in target.headers
    assert b"Authorization: Bearer key\r\n" in target.headers
    assert target.loopback
    far = parse_target("https://api.example")
    assert (far.port, far.tls, far.loopback) == (443, True, False)
    assert b"Authorization" not in far.headers
    assert parse_target("http://[::1]:80/v1").host == "::1"


@pytest.mark.parametrize(
    "url",
    ["", "127.0.0.1:5000", "ftp://a/v1", "http://", "http://a:99999", "http://a/v1?x=1",
     "http://a b", "http://a\r\nX: y", "http://user:pw@a/v1", "http://bücher.example", "http://[::1"],
)  # fmt: skip
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="give one like"):
        parse_target(url)


@pytest.mark.parametrize("key", ["a\r\nX: y", "schlüssel", "a\x00"])
def test_a_key_that_no_header_can_carry_is_refused_without_showing_it(key: str) -> None:
    with pytest.raises(ConfigurationError, match="API key") as caught:
        parse_target("http://a/v1", key)
    assert key not in str(caught.value)
