"""The least number of tokens that a text of so many bytes has, by the tokenizer's own rules."""

from __future__ import annotations

import time
import unicodedata
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from openllm.engines.hf_longest import NFC_SHRINKS, longest_token
from openllm.engines.hf_tokens import TokenTable
from openllm.engines.prompt_size import least_tokens
from tests.torch.hf_tokenizers import KINDS

BOUNDED = ("demo", "gpt2", "tiktoken", "llama", "gemma")
TEXTS = [
    " " * 500,
    "\u2581" * 100,
    "\u3000\n\t " * 50,
    "e\u0301" * 100,
    "<s></s><|user|><think>" * 20,
    "日本語 👩‍👩‍👧‍👦 \x00\ufffd" * 20,
    "aaaa" * 100,
]


@pytest.fixture(scope="module", params=BOUNDED)
def table(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TokenTable:
    return TokenTable(KINDS[request.param](tmp_path_factory.mktemp("tokenizer")))


@pytest.mark.reliability("C-19")
@given(text=st.lists(st.one_of(st.sampled_from(TEXTS), st.text()), max_size=4).map("".join))
@settings(max_examples=60, deadline=None)
def test_no_text_has_fewer_tokens_than_its_bytes_say(table: TokenTable, text: str) -> None:
    assert table.longest > 0
    for special in (False, True):
        assert least_tokens(text, table.longest) <= len(table.encode(text, special=special))


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - set(BOUNDED)))
def test_tokenizers_that_may_leave_out_text_have_no_bound(kind: str, tmp_path: Path) -> None:
    assert longest_token(KINDS[kind](tmp_path)) == 0


def byte_pairs(**parts: Any) -> Any:
    """Return a tokenizer of all bytes and "ab"."""
    alphabet = {char: at for at, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    alphabet |= {"ab": 256}
    affixes = parts.get("affixes", {})
    merges = [] if affixes else [("a", "b")]
    tokenizer = Tokenizer(models.BPE(vocab=alphabet, merges=merges, **affixes))
    tokenizer.pre_tokenizer = parts.get("pre", pre_tokenizers.ByteLevel(add_prefix_space=False))
    if "normalizer" in parts:
        tokenizer.normalizer = parts["normalizer"]
    tokenizer.add_tokens(parts.get("added", []))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


@pytest.mark.parametrize(
    ("parts", "longest"),
    [
        ({}, 2),
        ({"added": ["日本"]}, 6),
        ({"added": [AddedToken("<mask>", lstrip=True)]}, 0),
        ({"added": [AddedToken("<end>", rstrip=True)]}, 0),
        ({"normalizer": normalizers.NFC()}, 2 * NFC_SHRINKS),
        ({"normalizer": normalizers.NFKC()}, 0),
        ({"normalizer": normalizers.Strip()}, 0),
        ({"normalizer": normalizers.Replace("``", '"')}, 0),
        ({"normalizer": normalizers.Replace(" ", "\u2581")}, 2),
        ({"normalizer": normalizers.Replace(" ", "\u2581"), "added": ["    "]}, 12),
        ({"affixes": {"end_of_word_suffix": "</w>"}}, 0),
        ({"affixes": {"continuing_subword_prefix": "##"}}, 0),
        ({"pre": pre_tokenizers.Whitespace()}, 0),
        ({"pre": pre_tokenizers.Split(" ", "removed")}, 0),
        (
            {"pre": pre_tokenizers.Sequence(
                [pre_tokenizers.Digits(), pre_tokenizers.Split(" ", "isolated"),
                 pre_tokenizers.ByteLevel(use_regex=False)]
            )},
            2,
        ),
    ],
)  # fmt: skip
def test_what_drops_or_shrinks_text_counts(parts: dict[str, Any], longest: int) -> None:
    assert longest_token(byte_pairs(**parts)) == longest


def test_a_vocabulary_without_some_byte_has_no_bound() -> None:
    tokenizer = Tokenizer(models.BPE(vocab={"a": 0, "b": 1}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    assert longest_token(PreTrainedTokenizerFast(tokenizer_object=tokenizer)) == 0


def test_composing_characters_shrinks_no_text_further() -> None:
    """Of each composed character, the longest of the ways to write it."""
    every = [chr(each) for each in range(0x110000) if not 0xD800 <= each < 0xE000]
    sizes: dict[str, int] = {}
    for char in every:
        apart = unicodedata.normalize("NFD", char)
        if len(apart) == 1:
            sizes[apart] = max(sizes.get(apart, 0), len(char.encode()))
    for char in every:
        whole = unicodedata.normalize("NFC", char)
        written = sum(sizes[each] for each in unicodedata.normalize("NFD", char))
        assert written <= NFC_SHRINKS * len(whole.encode())


def test_other_threads_go_on_while_a_long_text_is_read(tmp_path: Path) -> None:
    table = TokenTable(KINDS["demo"](tmp_path))
    reader = Thread(target=lambda: table.encode("one two three four " * 100_000, special=False))
    turns = 0
    reader.start()
    while reader.is_alive():  # About a second, of which this thread gets no turn if it is held.
        time.sleep(0.005)
        turns += 1
    assert turns > 5
