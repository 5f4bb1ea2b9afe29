"""The scripted tokenizer is exact and stable; embeddings and the prompt cache are honest."""

from __future__ import annotations

import math
from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openllm.engines.scripted_tokens import (
    CONTROL_TOKENS,
    END_OF_TEXT_ID,
    IM_END_ID,
    IM_START_ID,
    PromptCache,
    Vocabulary,
    embed_text,
)
from openllm.errors import InvalidRequestError

TEXTS = st.lists(
    st.one_of(st.text(), st.sampled_from([*CONTROL_TOKENS, " word", "日本", "👩‍👩‍👧‍👦", "\ufffd"]))
).map("".join)


@pytest.fixture
def vocabulary() -> Vocabulary:
    vocabulary = Vocabulary()
    for word in ("Hello", " word", "日本"):
        vocabulary.add(word.encode())
    return vocabulary


@settings(deadline=None)
@given(TEXTS, st.booleans())
def test_decoding_gives_every_text_back(text: str, special: bool) -> None:
    vocabulary = Vocabulary()
    vocabulary.add(b" word")
    ids = vocabulary.encode(text, special=special)
    assert vocabulary.decode(ids) == text
    assert all(0 <= token_id < len(vocabulary) for token_id in ids)


def test_known_words_are_one_token_and_others_their_bytes(vocabulary: Vocabulary) -> None:
    ids = vocabulary.encode("Hello word 日本 x日", special=False)
    assert ids == [259, 260, *" 日本".encode(), *" x日".encode()]
    assert vocabulary.encode("日本", special=False) == [261]


@pytest.mark.reliability("C-14")
def test_control_tokens_count_only_when_special(vocabulary: Vocabulary) -> None:
    text = "<|im_start|>a<|im_end|><|endoftext|>"
    assert vocabulary.encode(text, special=True) == [IM_START_ID, 97, IM_END_ID, END_OF_TEXT_ID]
    plain = vocabulary.encode(text, special=False)
    assert not {IM_START_ID, IM_END_ID, END_OF_TEXT_ID} & set(plain)
    assert vocabulary.decode(plain) == text


def test_prompts_join_text_and_ids(vocabulary: Vocabulary) -> None:
    assert vocabulary.encode_prompt(("Hello", 7, "<|im_end|>")) == (259, 7, IM_END_ID)


@pytest.mark.reliability("C-20")
@pytest.mark.parametrize("prompt", ["", (), ("",), (-1,), (262,), ("a", 2**31)])
def test_prompts_that_are_none_are_refused(
    vocabulary: Vocabulary, prompt: str | tuple[str | int, ...]
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        vocabulary.encode_prompt(prompt)
    assert caught.value.param == "prompt"


def floats(text: str) -> array[float]:
    return array("f", embed_text(text))


def cosine(one: str, other: str) -> float:
    return sum(a * b for a, b in zip(floats(one), floats(other), strict=True))


@settings(deadline=None)
@given(st.text(min_size=1))
def test_embeddings_have_unit_length(text: str) -> None:
    assert len(floats(text)) == 64
    assert math.hypot(*floats(text)) == pytest.approx(1.0, abs=1e-6)


def test_texts_that_share_words_are_closer() -> None:
    near = cosine("the cat sat on the mat", "A cat sat on a mat!")
    far = cosine("the cat sat on the mat", "stock prices fell sharply today")
    assert near > far + 0.3
    assert cosine("Cats purr", "cats PURR") == pytest.approx(1.0, abs=1e-6)


def test_only_a_whole_earlier_prompt_counts_as_cached() -> None:
    cache = PromptCache(size=2)
    assert cache.read((1, 2, 3)) == 0
    assert cache.read((1, 2, 4)) == 0
    assert cache.read((1, 2, 3, 9)) == 3
    assert cache.read((1, 2, 3, 9)) == 3  # One token has to be read to go on from.


def test_the_oldest_prompt_is_forgotten_first() -> None:
    cache = PromptCache(size=2)
    for prompt in ((1, 1), (2, 2), (3, 3)):
        cache.read(prompt)
    assert cache.read((1, 1, 1)) == 0
    assert cache.read((3, 3, 3)) == 2
