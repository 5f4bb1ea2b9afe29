"""llama.cpp's events become chunks: text, ids, stops, ends and counts."""

from __future__ import annotations

import json
from typing import Any

import pytest

from openllm.engines.llamacpp_stream import SCHEMA_DROPPED, Answer
from openllm.types import CompletionChunk, SamplingParams, Usage

PROGRESS = json.dumps(
    {"choices": [{"text": "", "index": 0}], "prompt_progress": {"total": 7, "cache": 3}}
).encode()


def token(text: str, token_id: int, index: int = 0, own: bytes | None = None) -> bytes:
    entry: dict[str, Any] = {
        "id": token_id, "token": text, "bytes": list(text.encode() if own is None else own),
        "logprob": -0.5, "top_logprobs": [{"id": 1, "token": "z", "bytes": [122], "logprob": -0.1}],
    }  # fmt: skip
    choice = {"text": text, "index": index, "logprobs": {"content": [entry]}, "finish_reason": None}
    return json.dumps({"choices": [choice], "model": "m", "object": "text_completion"}).encode()


def end(reason: str, tokens: int, index: int = 0) -> bytes:
    choice = {"text": "", "index": index, "logprobs": None, "finish_reason": reason}
    usage = {"prompt_tokens": 7, "completion_tokens": tokens, "total_tokens": 7 + tokens}
    return json.dumps({"choices": [choice], "usage": usage, "timings": {}}).encode()


def chunks(events: list[bytes], **params: Any) -> list[CompletionChunk]:
    answer = Answer(SamplingParams(**params))
    made = [answer.take(event) for event in [PROGRESS, *events]]
    assert answer.ended
    return [chunk for chunk in made if chunk is not None]


def words(*texts: str) -> list[bytes]:
    return [token(text, 10 + at) for at, text in enumerate(texts)]


def text_of(made: list[CompletionChunk]) -> str:
    return "".join(chunk.text for chunk in made)


def test_each_token_is_a_chunk_and_the_end_counts_them() -> None:
    made = chunks([*words("a", "b"), end("length", 2)])
    assert [(c.text, c.token_ids) for c in made] == [("a", (10,)), ("b", (11,)), ("", ())]
    assert made[-1].finish_reason == "length"
    assert made[-1].usage == Usage(7, 2, 3)
    assert all(c.logprobs is None and c.usage is None for c in made[:-1])


@pytest.mark.reliability("C-08", "C-09")
def test_the_end_of_text_token_is_neither_reported_nor_counted() -> None:
    made = chunks([*words("a", "b", ""), end("stop", 3)])
    assert [i for c in made for i in c.token_ids] == [10, 11]
    assert (made[-1].finish_reason, made[-1].usage) == ("stop", Usage(7, 2, 3))


def test_a_token_without_text_is_reported_when_it_was_not_the_end() -> None:
    made = chunks([*words("a", "", "b"), end("length", 3)])
    assert [i for c in made for i in c.token_ids] == [10, 11, 12]
    made = chunks([*words("a", ""), end("length", 2)])
    assert [i for c in made for i in c.token_ids] == [10, 11]


@pytest.mark.spec("S0-20", "S3-23")
@pytest.mark.reliability("C-01", "C-03")
@pytest.mark.parametrize(
    ("texts", "stops", "kept"),
    [
        (("quick", " bro", "wn fo", "x jumps"), ("own fox",), "quick br"),
        (("x", "a", "b", "c"), ("ab", "abc", "bc"), "x"),
        (("xa", "bc"), ("ab", "abc", "bc"), "x"),
        (("x", "🚲", "y"), ("🚲",), "x"),
        (("aab",), ("ab",), "a"),
        (("stop",), ("stop",), ""),
    ],
)
def test_text_ends_before_the_first_stop(
    texts: tuple[str, ...], stops: tuple[str, ...], kept: str
) -> None:
    made = chunks(words(*texts), stop=stops)
    assert text_of(made) == kept
    assert made[-1].finish_reason == "stop"
    ids = [i for c in made for i in c.token_ids]
    assert made[-1].usage == Usage(7, len(ids), 3)
    assert ids == list(range(10, 10 + len(ids)))


@pytest.mark.reliability("C-01")
def test_no_chunk_holds_the_beginning_of_a_stop_that_completes() -> None:
    made = chunks(words("hello", " <", "|e", "nd", "|>", "more"), stop=("<|end|>",))
    assert [c.text for c in made if c.text] == ["hello", " "]


@pytest.mark.reliability("C-02")
@pytest.mark.parametrize(("reason", "extra"), [("length", ()), ("stop", ("",))])
def test_held_text_comes_at_the_end(reason: str, extra: tuple[str, ...]) -> None:
    texts = ("br", "own f", *extra)
    made = chunks([*words(*texts), end(reason, len(texts))], stop=("own fox",))
    assert text_of(made) == "brown f"
    assert [i for c in made for i in c.token_ids] == [10, 11]
    assert made[-1].usage == Usage(7, 2, 3)


@pytest.mark.reliability("C-02")
def test_no_more_is_held_than_a_stop_needs() -> None:
    answer = Answer(SamplingParams(stop=("ab",)))
    first = answer.take(token("a long text, a", 1))
    assert first is not None
    assert first.text == "a long text, "


def test_a_stop_token_ends_the_text_and_lets_held_text_out() -> None:
    made = chunks(words("x", "a", "S"), stop=("ab",), stop_token_ids=(12,))
    assert text_of(made) == "xa"
    assert [i for c in made for i in c.token_ids] == [10, 11]
    assert (made[-1].finish_reason, made[-1].usage) == ("stop", Usage(7, 2, 3))


def test_what_comes_after_the_end_is_ignored() -> None:
    answer = Answer(SamplingParams(stop=("b",)))
    for event in words("a", "b"):
        answer.take(event)
    assert answer.ended
    assert answer.take(token("c", 5)) is None
    assert answer.take(end("length", 3)) is None


@pytest.mark.reliability("C-06")
def test_sequences_are_kept_apart() -> None:
    made = chunks(
        [
            token("a", 1, 0),
            token("b", 2, 1),
            end("stop", 2, 0),
            token("c", 3, 1),
            end("length", 2, 1),
        ],
        n=2,
    )
    assert [(c.index, c.text, c.finish_reason) for c in made] == [
        (0, "a", None), (1, "b", None), (0, "", "stop"), (1, "c", None), (1, "", "length")
    ]  # fmt: skip


@pytest.mark.spec("S3-25")
def test_logprobs_hold_the_tokens_own_bytes_and_itself() -> None:
    events = [token("é", 5, own=b"\xa9"), end("length", 2)]
    (report,) = chunks(events, logprobs=1)[0].logprobs or ()
    assert (report.token_id, report.bytes, report.logprob) == (5, (0xA9,), -0.5)
    assert [each.token_id for each in report.top] == [1, 5]
    (report,) = chunks(events, logprobs=0)[0].logprobs or ()
    assert report.top == ()


def test_logprobs_are_cut_with_the_text_and_summed() -> None:
    made = chunks(words("x", "a", "b"), logprobs=0, stop=("ab",))
    assert [each.token_id for c in made for each in c.logprobs or ()] == [10]
    assert made[-1].cumulative_logprob == -0.5


@pytest.mark.parametrize("params", [{}, {"logprobs": 0}, {"stop": ("b",)}])
def test_a_token_that_must_not_come_is_an_error(params: dict[str, Any]) -> None:
    answer = Answer(SamplingParams(**params), never=11)
    events = words("a", "b")
    assert answer.take(events[0]) is not None
    assert answer.error is None
    assert answer.take(events[1]) is None
    assert answer.error is SCHEMA_DROPPED


def test_an_error_and_a_prompt_without_tokens_are_noticed() -> None:
    answer = Answer(SamplingParams())
    answer.take(b'{"error":{"code":400,"message":"no","type":"x","n_prompt_tokens":3,"n_ctx":2}}')
    assert answer.error is not None
    assert (answer.error.message, answer.error.n_prompt_tokens, answer.error.n_ctx) == ("no", 3, 2)
    answer = Answer(SamplingParams())
    answer.take(b'{"choices":[{"text":"","index":0,"finish_reason":"length"}],'
                b'"usage":{"prompt_tokens":0,"completion_tokens":0}}')  # fmt: skip
    assert answer.empty
