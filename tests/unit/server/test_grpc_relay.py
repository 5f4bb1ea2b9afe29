"""What the relay lets through, and what it does not."""

from __future__ import annotations

import pytest
from hpack import Encoder
from hypothesis import given, settings
from hypothesis import strategies as st

from openllm.server.grpc_relay import BadRequestError, Screen

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
GOOD = [(":method", "POST"), (":path", "/a.B/C"), ("x", "y" * 50)]


def frame(kind: int, flags: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + b"\0\0\0\1" + payload


def block(*fields: tuple[str | bytes, str | bytes]) -> bytes:
    return bytes(Encoder().encode(list(fields)))


def conversation() -> bytes:
    """Return a preface, settings, two requests that share a table, and data."""
    encoder = Encoder()
    first, second = (bytes(encoder.encode(GOOD)) for _ in range(2))
    return b"".join(
        (
            PREFACE,
            frame(4, 0, b""),
            frame(1, 0, first[:5]),
            frame(9, 0, first[5:9]),
            frame(9, 4, first[9:]),
            frame(0, 1, b"data" * 5000),
            frame(1, 4 | 8 | 0x20, b"\x03" + b"\0\0\0\0\0" + second + b"\0\0\0"),
            frame(0, 1, b""),
        )
    )


@given(cuts=st.lists(st.integers(1, 25_000), max_size=40))
@settings(deadline=None)
def test_what_is_right_passes_unchanged_however_it_is_cut(cuts: list[int]) -> None:
    data, screen, passed, place = conversation(), Screen(), b"", 0
    for end in [*sorted(cuts), len(data)]:
        if data[place:end]:
            passed += screen.feed(data[place:end])
            place = end
    assert passed == data


def test_it_passes_byte_by_byte() -> None:
    screen = Screen()
    data = conversation()
    assert b"".join(screen.feed(bytes([each])) for each in data) == data


@pytest.mark.parametrize(
    "wrong",
    [
        frame(1, 4, block((":path", b"/\xff"))),
        frame(1, 4, block((":path", "/a"), (":path", b"\xc3\x28"))),
        frame(1, 4, block((":path", "/a"), ("x", "é"))),
        frame(1, 4, block((":path", "/a"), (b"\xe7", "x"))),
        frame(1, 4, b"\xff\xff\xff\xff\xff\xff\xff"),
        frame(1, 4, b"\x80"),
        frame(1, 4 | 8, b"\x50ab"),
        frame(1, 4 | 8, b""),
        frame(1, 4 | 0x20, b"abc"),
        frame(9, 4, b""),
        frame(1, 0, b"") + frame(0, 0, b"x"),
        frame(1, 0, b"") + frame(1, 4, block(*GOOD)),
        frame(1, 0, b"a" * 40_000) + frame(9, 0, b"a" * 40_000),
        (70_000).to_bytes(3, "big") + b"\1\4\0\0\0\1",
        frame(1, 4, b"\x3f\xe1\xff\x7f" + block(*GOOD)),
        frame(1, 4, block(*[(f"x{each}", "y" * 900) for each in range(90)])),
    ],
    ids=range(16),
)
def test_what_is_wrong_is_stopped(wrong: bytes) -> None:
    screen = Screen()
    assert screen.feed(PREFACE) == PREFACE
    with pytest.raises(BadRequestError):
        screen.feed(wrong)


def test_a_second_request_may_refer_to_the_headers_of_the_first() -> None:
    encoder = Encoder()
    screen = Screen()
    screen.feed(PREFACE + frame(1, 4, encoder.encode([(":path", "/good")])))
    wrong = encoder.encode([(":path", b"/\xff\xfe")])
    with pytest.raises(BadRequestError):
        screen.feed(frame(1, 4, wrong))


def test_calls_that_are_open_to_anyone_send_little() -> None:
    call = PREFACE + frame(1, 4, block((":path", "/open")))
    for ending in (frame(0, 1, b""), frame(3, 0, b"\0\0\0\0")):
        screen = Screen(["/open"])
        assert screen.feed(call + frame(0, 0, b"x" * 4096) + ending)
        assert screen.feed(frame(0, 0, b"x" * 9000))  # For the core, as the stream is closed.
        screen = Screen(["/open"])
        with pytest.raises(BadRequestError):
            screen.feed(call + frame(0, 0, b"x" * 4000) + frame(0, 0, b"x" * 97) + ending)
    Screen(["/other"]).feed(call + frame(0, 0, b"x" * 9000))


def test_calls_that_have_ended_are_forgotten() -> None:
    screen = Screen(["/open"])
    screen.feed(PREFACE)
    head = block((":path", "/open"))

    def send(kind: int, flags: int, stream: int, payload: bytes) -> None:
        begin = len(payload).to_bytes(3, "big") + bytes([kind, flags])
        screen.feed(begin + stream.to_bytes(4, "big") + payload)

    for stream in range(1, 6001, 6):
        send(1, 4 | 1, stream, head)  # No message.
        send(1, 1, stream + 2, head[:2])  # The same in two frames.
        send(9, 4, stream + 2, head[2:])
        send(1, 4, stream + 4, head)  # Its end comes with trailers.
        send(0, 0, stream + 4, b"x")
        send(1, 4 | 1, stream + 4, block(("x", "y")))


@given(data=st.binary(max_size=300))
@settings(deadline=None)
def test_anything_passes_or_is_stopped(data: bytes) -> None:
    screen = Screen()
    screen.feed(PREFACE)
    try:
        passed = screen.feed(data)
    except BadRequestError:
        return
    assert data.startswith(passed)
