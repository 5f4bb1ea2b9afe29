"""What the load generator reads out of a streamed reply, with times given by the test."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openllm.bench.stream import ReplyTimer, SSESplitter, error_message, has_text


def event(value: object) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def text(content: str, finish: str | None = None) -> bytes:
    return event({"choices": [{"index": 0, "text": content, "finish_reason": finish}]})


USAGE = event({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 9}})
DONE = b"data: [DONE]\n\n"

STREAM = (
    b": ping\n\nevent: x\ndata: one\r\n\r\ndata:two\ndata: three\n\n"
    b"id: 4\n\ndata: \xf0\x9f\x98\x80\n\n"
)
EVENTS = [b"one", b"two\nthree", "😀".encode()]


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_events_are_the_same_however_the_bytes_are_cut(cuts: list[int]) -> None:
    splitter = SSESplitter()
    found = []
    ends = [*sorted(cuts), len(STREAM)]
    for start, end in zip([0, *ends], ends, strict=False):
        found += splitter.feed(STREAM[start:end])
    assert found == EVENTS


def test_an_event_without_its_empty_line_is_not_given() -> None:
    assert SSESplitter().feed(b"data: one\n") == []


def timed(*pieces: tuple[float, bytes], start: float = 100.0) -> Any:
    timer = ReplyTimer(start)
    for now, piece in pieces:
        timer.feed(piece, now)
    return timer.record(origin=99.0, lag=0.25)


def test_times_of_a_complete_reply() -> None:
    role = event({"choices": [{"delta": {"role": "assistant", "content": ""}}]})
    record = timed(
        (100.01, role),
        (100.25, text("a")),
        (100.5, text("b")),
        (101.0, text("c")),
        (101.5, text("", "length")),
        (102.0, USAGE),
        (103.0, DONE),
    )
    assert record.error is None
    assert record.start == 1.0
    assert record.lag == 0.25
    assert record.ttft == 0.25
    assert record.gaps == (0.25, 0.5)
    assert record.latency == 1.5
    assert (record.prompt_tokens, record.output_tokens, record.counted) == (7, 9, False)


def test_chunks_count_as_tokens_without_usage() -> None:
    record = timed((101.0, text("a") + text("b")), (102.0, text("c", "stop") + DONE))
    assert (record.output_tokens, record.counted, record.prompt_tokens) == (3, True, None)
    assert record.gaps == (0.0, 1.0)


@pytest.mark.parametrize(
    ("piece", "kind", "detail"),
    [
        (b"", "incomplete", "ended before"),
        (text("a"), "incomplete", "ended before"),
        (text("", "stop") + DONE, "empty", "no text"),
        (text("a") + event({"error": {"message": "it\nbroke"}}) + DONE, "stream_error", "it broke"),
        (b"data: {oops\n\n", "protocol", "not JSON"),
        (b"data: [1]\n\n", "protocol", "no JSON object"),
        (
            event({"choices": [3]}) + event({"choices": 3}) + event({"choices": []}),
            "incomplete",
            "",
        ),
    ],
)
def test_what_is_no_complete_reply_has_a_kind(piece: bytes, kind: str, detail: str) -> None:
    record = timed((101.0, piece))
    assert record.error == kind
    assert detail in record.detail


def test_the_first_failure_is_the_one_reported() -> None:
    timer = ReplyTimer(0.0)
    timer.feed(event({"error": "out of memory"}), 1.0)
    timer.fail("closed", "gone", 2.0)
    record = timer.record(0.0)
    assert (record.error, record.detail, record.latency) == ("stream_error", "out of memory", 1.0)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"text": "a"}, True),
        ({"text": ""}, False),
        ({"delta": {"content": "a"}}, True),
        ({"delta": {"content": None, "reasoning_content": "hm"}}, True),
        ({"delta": {"tool_calls": [{}]}}, True),
        ({"delta": {"role": "assistant"}}, False),
        ({"delta": None}, False),
        ({}, False),
    ],
)
def test_has_text(choice: dict[str, Any], expected: bool) -> None:
    assert has_text(choice) is expected


def test_error_messages_are_one_short_line() -> None:
    assert error_message({"error": {"message": "no\n such  model"}}) == "no such model"
    assert error_message({"error": "plain"}) == "plain"
    assert error_message("x" * 1000) == "x" * 200
