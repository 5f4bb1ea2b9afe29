"""Characters, stop strings and tokens that are cut with them, over every way to split the text."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from openllm.engines.textstream import StopMatcher, TextStream, Utf8Stream

PIECES = [
    "a",
    "b",
    " ",
    "é",
    "日本",
    "👩‍👩‍👧‍👦",
    "🇩🇪",
    "e\u0301",
    "שלום",
    "\ufffd",
    "\u2028",
    "\r\n",
]
no_deadline = settings(deadline=None)
TEXTS = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)
SMALL = st.text("ab", max_size=12)
STOPS = st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=4)


def splits(whole: bytes) -> Iterator[list[bytes]]:
    """Yield every way to cut bytes into one, two or three parts, and into single bytes."""
    yield [whole[at : at + 1] for at in range(len(whole))]
    for first, second in itertools.combinations_with_replacement(range(len(whole) + 1), 2):
        yield [whole[:first], whole[first:second], whole[second:]]


def cut(text: str, stops: Sequence[str]) -> tuple[str, str | None]:
    """Return what is kept of a text, by the rule itself: first end, then longest stop."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            longest = max(found, key=len)
            return text[: end - len(longest)], longest
    return text, None


def longest_beginning(text: str, stops: Sequence[str]) -> int:
    """Return the length of the longest end of `text` that begins a stop string."""
    longest = max(map(len, stops), default=0)
    return next(
        size
        for size in range(longest, -1, -1)
        if any(stop[:size] == text[len(text) - size :] for stop in stops)
    )


def run(stream: TextStream[int], parts: Sequence[bytes]) -> tuple[list[str], list[int]]:
    """Push parts as tokens 0, 1, 2, ... until a stop string or the end; return what came out."""
    texts, tokens = [], []
    for token, part in enumerate(parts):
        text, released = stream.push(token, part)
        texts.append(text)
        tokens.extend(released)
        if stream.matched is not None:
            return texts, tokens
    text, released = stream.finish()
    return [*texts, text], [*tokens, *released]


@pytest.mark.reliability("C-04")
@no_deadline
@given(TEXTS)
@example("👩‍👩‍👧‍👦")
def test_characters_are_whole_and_exact_for_every_split(text: str) -> None:
    for parts in splits(text.encode()):
        stream = Utf8Stream()
        chunks = [stream.feed(part) for part in parts]
        assert "".join(chunks) == text
        assert stream.flush() == ""


@pytest.mark.reliability("C-04")
@no_deadline
@given(st.binary(max_size=16))
def test_any_bytes_read_as_when_decoded_at_once(data: bytes) -> None:
    for parts in splits(data):
        stream = Utf8Stream()
        text = "".join(map(stream.feed, parts)) + stream.flush()
        assert text == data.decode("utf-8", "replace")


@pytest.mark.reliability("C-04")
@pytest.mark.parametrize("size", [1, 2, 3])
def test_text_that_ends_inside_a_character_gives_one_replacement_character(size: int) -> None:
    for parts in splits(b"ok " + "👍".encode()[:size]):
        stream = Utf8Stream()
        chunks = [stream.feed(part) for part in parts]
        assert "".join(chunks) == "ok "
        assert stream.flush() == "\ufffd"
        assert stream.flush() == ""


@pytest.mark.reliability("C-01")
def test_stop_string_is_cut_for_every_split() -> None:
    text = b"The quick brown fox jumps"
    for parts in splits(text):
        texts, _ = run(TextStream(["own fox"]), parts)
        assert "".join(texts) == "The quick br"


@pytest.mark.reliability("C-01", "C-03")
@no_deadline
@given(SMALL, STOPS)
@example("xabc", ["ab", "abc", "bc"])
@example("abab", ["abc", "bab"])
def test_first_end_wins_for_every_split(text: str, stops: list[str]) -> None:
    kept, stop = cut(text, stops)
    for parts in splits(text.encode()):
        stream: TextStream[int] = TextStream(stops)
        texts, _ = run(stream, parts)
        assert ("".join(texts), stream.matched) == (kept, stop)


@pytest.mark.reliability("C-03")
@pytest.mark.parametrize(
    ("text", "kept", "matched"),
    [
        ("xabc", "x", "ab"),  # "ab" ends first, although "abc" begins there too
        ("xbc", "x", "bc"),
        ("aabc", "a", "ab"),
        ("xac", "xac", None),
    ],
)
def test_overlapping_stop_strings(text: str, kept: str, matched: str | None) -> None:
    matcher = StopMatcher(["ab", "abc", "bc"])
    assert matcher.feed(text) + matcher.flush() == kept
    assert matcher.matched == matched


@pytest.mark.reliability("C-03")
def test_longest_wins_of_those_that_end_together() -> None:
    matcher = StopMatcher(["own", "br own", "n"])
    assert matcher.feed("br ow") == ""
    assert matcher.feed("n") == ""
    assert matcher.matched == "br own"


@pytest.mark.reliability("C-03")
def test_stop_string_of_several_code_points_is_cut_from_bytes() -> None:
    text = "so 👩‍👩‍👧‍👦 there".encode()
    for parts in splits(text):
        stream: TextStream[int] = TextStream(["👩‍👩‍👧‍👦"])
        texts, _ = run(stream, parts)
        assert "".join(texts) == "so "


@pytest.mark.reliability("C-01", "C-02")
@no_deadline
@given(SMALL, STOPS)
def test_only_what_may_begin_a_stop_string_is_held(text: str, stops: list[str]) -> None:
    matcher = StopMatcher(stops)
    sent = ""
    for at, char in enumerate(text, 1):
        sent += matcher.feed(char)
        if matcher.matched is not None:
            return
        held = longest_beginning(text[:at], stops)
        assert sent == text[: at - held]
        assert held < max(map(len, stops))


@pytest.mark.reliability("C-02")
def test_held_tail_is_released_once_at_the_end() -> None:
    matcher = StopMatcher(["own fox"])
    assert matcher.feed("brown f") == "br"
    assert matcher.flush() == "own f"
    assert matcher.flush() == ""
    assert matcher.matched is None


def test_nothing_follows_a_match() -> None:
    matcher = StopMatcher(["END"])
    assert matcher.feed("one END two") == "one "
    assert matcher.feed("three") == ""
    assert matcher.flush() == ""


def test_empty_stop_string_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        StopMatcher(["a", ""])


@pytest.mark.parametrize("stop", ["]", "^", "a-z", "\\", ".*", "[a]"])
def test_stop_strings_are_no_regular_expressions(stop: str) -> None:
    matcher = StopMatcher([stop])
    assert matcher.feed(f"x{stop}y") == "x"
    assert matcher.matched == stop


class CountingText(str):
    """Text that counts how often a character of it is looked at."""

    looks = 0

    def __getitem__(self, key: object) -> str:
        CountingText.looks += isinstance(key, int)
        return super().__getitem__(key)  # type: ignore[index]


def test_no_character_is_looked_at_twice() -> None:
    matcher = StopMatcher(["a" * 200 + "b"])
    CountingText.looks = 0
    for _ in range(1000):
        matcher.feed(CountingText("aaaa"))
    assert CountingText.looks == 4000


@pytest.mark.reliability("C-03")
@no_deadline
@given(SMALL, STOPS, st.data())
def test_tokens_wholly_behind_the_cut_are_dropped(
    text: str, stops: list[str], data: st.DataObject
) -> None:
    kept, matched = cut(text, stops)
    parts = data.draw(st.sampled_from(list(splits(text.encode()))))
    parts = [part for part in parts if part]
    starts = [sum(map(len, parts[:at])) for at in range(len(parts))]
    _, tokens = run(TextStream(stops), parts)
    expected = [at for at, start in enumerate(starts) if matched is None or start < len(kept)]
    assert tokens == expected


@pytest.mark.reliability("C-04")
@no_deadline
@given(TEXTS, st.data())
def test_every_token_is_released_once_and_in_order(text: str, data: st.DataObject) -> None:
    parts = data.draw(st.sampled_from(list(splits(text.encode()))))
    texts, tokens = run(TextStream(["never"]), parts)
    assert "".join(texts) == text
    assert tokens == list(range(len(parts)))


def test_a_token_is_released_with_the_first_of_its_text() -> None:
    stream: TextStream[int] = TextStream(["own"])
    first, rest = "é".encode()[:1], "é".encode()[1:]
    assert stream.push(0, first) == ("", ())
    assert stream.push(1, rest) == ("é", (0, 1))
    assert stream.push(2, b" ow") == (" ", (2,))
    assert stream.push(3, b"") == ("", ())
    assert stream.push(4, b"l") == ("owl", (3, 4))


def test_a_stop_string_that_the_last_broken_character_completes_still_cuts() -> None:
    stream: TextStream[int] = TextStream(["\ufffd"])
    assert stream.push(0, b"ok\xf0\x9f") == ("ok", (0,))
    assert stream.finish() == ("", ())
    assert stream.matched == "\ufffd"
