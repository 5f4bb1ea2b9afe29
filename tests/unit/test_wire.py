"""Frames of the runner's socket."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openllm.errors import ContextLengthError, EngineError, OverloadedError
from openllm.runner import wire
from openllm.types import CompletionChunk, TokenLogprob, Usage

STEP = wire.Step(
    (
        (3, CompletionChunk(0, "a", (1,), -0.5, (TokenLogprob(1, "a", (97,), -0.5),))),
        (4, CompletionChunk(1, "", finish_reason="stop", usage=Usage(2, 1))),
    ),
    ((4, None),),
)


@given(st.lists(st.integers(1, 50), max_size=20))
def test_frames_survive_any_cut(cuts: list[int]) -> None:
    frames = b"".join(wire.encode(message) for message in (STEP, wire.Healthy(7, True), STEP))
    unframer, bodies, start = wire.Unframer(), [], 0
    for size in [*cuts, len(frames)]:
        bodies += unframer.feed(frames[start : start + size])
        start += size
    assert [wire.from_worker.decode(body) for body in bodies] == [STEP, wire.Healthy(7, True), STEP]


def test_an_absurd_length_is_refused() -> None:
    with pytest.raises(ValueError, match="over the limit"):
        list(wire.Unframer().feed(b"\xff\xff\xff\xff"))


def test_errors_cross_with_their_meaning() -> None:
    error = ContextLengthError("5 tokens, 4 fit", param="messages", retry_after=1.5)
    frame = wire.encode(wire.NotStarted(wire.Failure.of(error)))
    back = wire.from_worker.decode(frame[4:])
    assert isinstance(back, wire.NotStarted)
    again = back.failure.error()
    assert type(again) is ContextLengthError
    assert (again.message, again.param, again.code, again.retry_after) == (
        "5 tokens, 4 fit", "messages", "context_length_exceeded", 1.5,
    )  # fmt: skip


def test_a_foreign_error_becomes_an_engine_error() -> None:
    again = wire.Failure.of(KeyError("x")).error()
    assert type(again) is EngineError
    assert "KeyError" in again.message


def test_a_class_that_others_derived_arrives_as_the_one_it_is_derived_from() -> None:
    class OwnError(OverloadedError):
        pass

    again = wire.Failure.of(OwnError("not now", retry_after=3.0)).error()
    assert type(again) is OverloadedError
    assert (again.message, again.retry_after) == ("not now", 3.0)
