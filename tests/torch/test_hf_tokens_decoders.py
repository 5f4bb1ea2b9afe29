"""The rules of every kind of decoder, token by token, against the decoders themselves."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, decoders

from openllm.engines.hf_pieces import (
    AnchorPieces,
    byte_level_alphabet,
    compile_decoder,
    encode_byte_fallback,
)

SPACE = "\u2581"
REPLACE = decoders.Replace(SPACE, " ")
KNOWN = {
    "byte level": decoders.ByteLevel(),
    "llama": decoders.Sequence(
        [REPLACE, decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    ),
    "two spaces": decoders.Sequence([REPLACE, decoders.Fuse(), decoders.Strip(" ", 2, 0)]),
    "gemma": decoders.Sequence([REPLACE, decoders.ByteFallback(), decoders.Fuse()]),
    "nested": decoders.Sequence([decoders.Sequence([REPLACE]), decoders.Fuse()]),
    "strip each": decoders.Sequence([decoders.Strip("_", 1, 0), decoders.Metaspace()]),
    "metaspace": decoders.Metaspace(),
    "metaspace first": decoders.Metaspace(prepend_scheme="first"),
    "metaspace never": decoders.Metaspace(prepend_scheme="never"),
    "metaspace other": decoders.Metaspace(replacement="_"),
    "wordpiece": decoders.WordPiece(),
    "wordpiece raw": decoders.WordPiece(prefix="@@", cleanup=False),
}
UNKNOWN = {
    "pattern": decoders.Replace(Regex("[a-c]"), "x"),
    "end": decoders.Sequence([decoders.Fuse(), decoders.Strip(" ", 0, 1)]),
    "fused": decoders.Sequence([decoders.Fuse(), decoders.Replace("ab", "x")]),
    "ctc": decoders.CTC(),
}
PIECES = [
    "a", "b", "c", "ab", "the", f"{SPACE}the", SPACE, SPACE * 2, f"{SPACE}a{SPACE}b", "_", "__a_",
    " ", " a", "##a", "##", "@@x", ".", "?", "!", ",", "'", "n't", "'m", "do not", "'s", "'ve",
    "'re", "it's", "a n't b", "Ġthe", "Ċ", "é", "日本", "Ã©", "<0x41>", "<0xff>", "<0xC3>",
    "<0xA9>", "<0xG1>", "<0x411>", "\u00a0", "\u00ad", "ł", "Ń", "\n",
]  # fmt: skip


def rules(decoder: Any) -> Any:
    return compile_decoder(json.loads(decoder.__getstate__()))


@pytest.mark.reliability("C-05")
@pytest.mark.parametrize("name", KNOWN)
@settings(max_examples=500, deadline=None)
@given(tokens=st.lists(st.sampled_from(PIECES), min_size=1, max_size=8))
def test_rules_do_as_the_decoder_does(name: str, tokens: list[str]) -> None:
    pieces = rules(KNOWN[name])
    data = pieces.of(tokens[0], first=True)
    data += b"".join([pieces.of(token) for token in tokens[1:]])
    for _ in range(pieces.lead_count):
        data = data.removeprefix(pieces.lead)
    text = data.decode("utf-8", "replace")
    expected = KNOWN[name].decode(tokens)
    if "\ufffd" in expected and name in ("llama", "gemma"):
        return  # One for each byte of a run that is no text, where we write one for each part.
    assert text == expected


@pytest.mark.parametrize("name", UNKNOWN)
def test_decoders_without_rules_are_known_to_have_none(name: str) -> None:
    assert rules(UNKNOWN[name]) is None


@pytest.mark.reliability("C-05")
@settings(max_examples=200, deadline=None)
@given(tokens=st.lists(st.sampled_from(PIECES), max_size=8))
def test_tokens_without_a_decoder_are_words(tokens: list[str]) -> None:
    pieces = compile_decoder(None)
    assert pieces is not None
    read = [pieces.of(token, first=not at).decode() for at, token in enumerate(tokens)]
    assert "".join(read) == " ".join(tokens)


@pytest.mark.parametrize("first", [True, False])
def test_any_decoder_is_read_behind_an_anchor(first: bool) -> None:
    pieces = AnchorPieces(UNKNOWN["pattern"].decode, "b")
    assert pieces.of("abd", first=first) == b"xxd"


def test_the_last_words_end_is_a_space_as_more_may_follow() -> None:
    decoder = decoders.BPEDecoder(suffix="</w>")
    pieces = rules(decoder)
    assert [pieces.of(token) for token in ("a", "b</w>", "c</w>")] == [b"a", b"b ", b"c "]
    assert decoder.decode(["a", "b</w>", "c</w>"]) == "ab c"


def test_the_alphabet_of_bytes_is_gpt_2s() -> None:
    from tokenizers import pre_tokenizers

    alphabet = dict(byte_level_alphabet())
    assert set(alphabet) == set(pre_tokenizers.ByteLevel.alphabet())
    assert sorted(alphabet.values()) == list(range(256))
    assert (alphabet["Ġ"], alphabet["Ċ"], alphabet["A"], alphabet["Ń"]) == (32, 10, 65, 173)


@pytest.mark.parametrize(
    ("token", "data"), [("<0x0A>", b"\n"), ("<0xfF>", b"\xff"), ("<0x1>", b"<0x1>"), ("a", b"a")]
)
def test_byte_tokens(token: str, data: bytes) -> None:
    assert encode_byte_fallback(token) == data
