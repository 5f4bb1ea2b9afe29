"""What tokens add to a text equals what the tokenizer's own decoder makes of them."""

from __future__ import annotations

import threading
import time
from functools import cache
from itertools import islice, product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from openllm.engines.hf_encode import FastEncoder
from openllm.engines.hf_pieces import METASPACE
from openllm.engines.hf_tokens import TokenTable
from openllm.engines.textstream import TextStream
from openllm.errors import EngineStartError, InvalidRequestError
from tests.torch.hf_tokenizers import KINDS, TEXT

NAMES = list(KINDS)
LOSSLESS = ["demo", "gpt2", "tiktoken", "gemma", "bytes_in_python", "tiktoken_in_python"]
BYTE_FALLBACK = ["llama", "gemma"]
IN_PYTHON = [name for name in NAMES if name.endswith("in_python")]
STRIPS_THE_END = ["sentencepiece_in_python"]  # A stream cannot know that it ends.
IGNORES_BYTES = ["bytes_in_python"]  # Its decoder drops bytes that are no character.
CONTROLS = {
    "demo": ["<|im_end|>", "<|endoftext|>", "<|im_start|>"],
    "gpt2": ["<|endoftext|>"],
    "tiktoken": ["<s>", "</s>", "<|user|>", "<｜end▁of｜>"],
    "llama": ["<s>", "</s>"],
    "gemma": ["<bos>"],
    "t5": ["</s>", "<pad>", "<extra_id_0>"],
    "bert": ["[SEP]", "[CLS]", "[PAD]"],
    "words": ["<s>", "</s>", "<|user|>"],
    "odd": [],
    "sentencepiece_in_python": ["<s>", "</s>", "<pad>"],
    "bytes_in_python": ["</s>", "<pad>", "<extra_id_0>"],
    "tiktoken_in_python": ["<|im_start|>", "<|im_end|>"],
}
SAMPLES = [
    *" aeiouthnsrdl.,'!?012<>/|\n\t_-",
    *"éèœ日本語🙂👍🏽\u0301\u200d\ufffd\u2581אبЖγ\x00\u202e",
    "  ", "   ", "\r\n", "👩‍👩‍👧‍👦", "🇩🇪🇫🇷", "e\u0301", "the", " quick", " don't", "</s>", "<s>",
    "<0x41>", "<|im_end|>", "<think>", "\u2581\u2581", "##", "[SEP]", "שלום", "مرحبا", "\ufeff",
    "東京",
]  # fmt: skip

texts = st.lists(st.sampled_from(SAMPLES), max_size=24).map("".join) | st.text(max_size=12)


@cache
def tokenizer_of(name: str) -> Any:
    return KINDS[name](folder_of(name))


@cache
def folder_of(name: str) -> Path:
    folder = FOLDERS[0] / name
    folder.mkdir()
    return folder


FOLDERS: list[Path] = []


@pytest.fixture(autouse=True, scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> None:
    FOLDERS.append(tmp_path_factory.mktemp("tokenizers"))


@cache
def table_of(name: str, strip_first: bool = False) -> TokenTable:
    return TokenTable(tokenizer_of(name), strip_first=strip_first)


def streamed(table: TokenTable, ids: list[int]) -> str:
    stream: TextStream[int] = TextStream()
    read = table.reader()
    text = "".join(stream.push(each, read(each))[0] for each in ids)
    return text + stream.finish()[0]


def decoded(name: str, ids: list[int]) -> str:
    text: str = tokenizer_of(name).decode(
        ids,
        skip_special_tokens=True,
        clean_up_tokenization_spaces=False,
        spaces_between_special_tokens=False,
    )
    return text


@pytest.mark.spec("S1-30")
@pytest.mark.reliability("C-05", "C-04")
@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=500, deadline=None)
@given(text=texts)
def test_streamed_text_is_the_decoders_text(name: str, text: str) -> None:
    table = table_of(name, strip_first=True)
    ids = table.encode(text, special=False)
    stream = streamed(table, ids)
    assert table.decode(ids) == stream
    if name in STRIPS_THE_END:
        assert stream.strip() == decoded(name, ids)
    else:
        assert stream == decoded(name, ids)
    if name in LOSSLESS:
        assert stream == (text.replace(METASPACE, " ") if name == "gemma" else text)


@pytest.mark.reliability("C-05")
@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=200, deadline=None)
@given(text=texts)
def test_text_behind_a_prompt_differs_by_the_first_space_alone(name: str, text: str) -> None:
    table, alone = table_of(name), table_of(name, strip_first=True)
    ids = table.encode(text, special=False)
    behind = streamed(table, ids)
    assert behind == b"".join(map(table.bytes_of, ids)).decode("utf-8", "replace")
    assert behind == table.decode(ids)
    shown = alone.decode(ids)
    assert shown in (behind, behind.removeprefix(" "), behind.lstrip(" "))
    if name in LOSSLESS:
        assert shown == behind


@pytest.mark.spec("S1-30")
@pytest.mark.reliability("C-04", "C-05")
@pytest.mark.parametrize("name", [name for name in NAMES if name not in IGNORES_BYTES])
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_tokens_a_model_may_choose(name: str, data: st.DataObject) -> None:
    table = table_of(name, strip_first=True)
    known = [each for each, token in enumerate(table._tokens) if token is not None]
    ids = data.draw(st.lists(st.sampled_from(known), max_size=20))
    stream = streamed(table, ids)
    if name in BYTE_FALLBACK and "\ufffd" in stream:
        return  # The decoder gives up the whole run of bytes: see the next test.
    if name in STRIPS_THE_END:
        assert stream.strip() == decoded(name, ids)
    else:
        assert stream == decoded(name, ids)


@pytest.mark.reliability("C-04")
@pytest.mark.parametrize("name", ["llama", "gemma", "demo", "bytes_in_python"])
def test_a_text_cut_inside_of_a_character_ends_in_one_replacement(name: str) -> None:
    table = table_of(name)
    ids = table.encode("ok 🚲", special=False)
    shown = [table.decode(ids[: len(ids) - cut]) for cut in (1, 2, 3)]
    assert [text.lstrip() for text in shown] == ["ok \ufffd"] * 3
    assert table.bytes_of(ids[-1]) == "🚲".encode()[-1:]
    assert table.token(ids[-1]) == "\ufffd"


@pytest.mark.reliability("C-03", "C-05")
@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=100, deadline=None)
@given(text=texts, stop=st.sampled_from(["e", "日", "🙂", "\n", " t", "👧", "</", "é"]))
def test_stop_strings_cut_the_decoders_text(name: str, text: str, stop: str) -> None:
    table = table_of(name, strip_first=True)
    ids = table.encode(text, special=False)
    stream: TextStream[int] = TextStream([stop])
    read, out = table.reader(), ""
    for each in ids:
        out += stream.push(each, read(each))[0]
    out += stream.finish()[0]
    whole = table.decode(ids)
    assert out == whole.partition(stop)[0]
    assert (stream.matched is not None) == (stop in whole)


@pytest.mark.spec("S1-30")
@pytest.mark.parametrize("name", NAMES)
def test_special_tokens_are_skipped_without_a_space(name: str) -> None:
    table = table_of(name)
    for control in CONTROLS[name]:
        special = table.encode(control, special=True)
        assert len(special) == 1
        assert special[0] in table.special_ids
        assert (table.bytes_of(special[0]), table.token(special[0])) == (b"", "")
        one, other = table.encode("fox", special=False), table.encode("dog", special=False)
        both = table.decode([*special, *one, *special, *other, *special])
        assert both == table.decode(one) + table.decode(other)


@pytest.mark.reliability("C-14")
@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_control_tokens_in_plain_text_stay_text(name: str, data: st.DataObject) -> None:
    table = table_of(name)
    parts = [*CONTROLS[name], "a", " ", "<", ">", "\n"]
    text = "".join(data.draw(st.lists(st.sampled_from(parts), max_size=6)))
    controls = {table.encode(control, special=True)[0] for control in CONTROLS[name]}
    ids = table.encode(text, special=False)
    assert not controls & set(ids)
    if name in LOSSLESS:
        assert table.decode(ids) == text
    elif name == "t5":
        for control in ("</s>", "<pad>"):  # Tokens of the model, found whatever the switch says.
            assert table.decode(table.encode(control, special=False)) == f" {control}"


@pytest.mark.parametrize("name", ["demo", "tiktoken", "llama", "t5", "tiktoken_in_python"])
def test_control_tokens_count_where_asked_for(name: str) -> None:
    table = table_of(name)
    for control in CONTROLS[name]:
        assert set(table.encode(f"a{control}b", special=True)) >= set(
            table.encode(control, special=True)
        )


def test_other_added_tokens_are_found_either_way() -> None:
    table = table_of("tiktoken")
    (think,) = table.encode("<think>", special=True)
    assert table.encode("<think>", special=False) == [think]
    assert table.bytes_of(think) == b"<think>"
    (spaces,) = table_of("gemma").encode("    ", special=False)
    assert table_of("gemma").bytes_of(spaces) == b"    "


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("special", [True, False])
def test_no_token_is_added(name: str, special: bool) -> None:
    table = table_of(name)
    assert table.encode("", special=special) == []
    ids = table.encode(" ".join(TEXT[0].split()[:3]), special=special)
    assert not {*table._before, *table._behind} & set(ids)


@pytest.mark.reliability("C-08")
def test_a_text_gets_bos_once() -> None:
    for name in ("tiktoken", "llama"):
        table = table_of(name)
        (bos,) = table.encode("<s>", special=True)
        hello = table.encode("hello", special=True)
        assert table.prompt_ids("hello") == [bos, *hello]
        assert table.prompt_ids("hello") == tokenizer_of(name)("hello").input_ids
        assert table.prompt_ids("<s>hello") == table.encode("<s>hello", special=True)
        assert table.prompt_ids("<s>hello").count(bos) == 1
        assert table.prompt_ids("<s>") == [bos]
        assert table.prompt_ids(("<s>", "hello")).count(bos) == 1
        assert table.prompt_ids((bos, "hello")) == [bos, *hello]
    assert table_of("demo").prompt_ids("hello") == table_of("demo").encode("hello", special=True)


def test_a_prompt_of_pieces_joins_neighbouring_texts() -> None:
    table = table_of("tiktoken")
    (bos,) = table.encode("<s>", special=True)
    assert table.prompt_ids(("hel", "", "lo")) == table.prompt_ids("hello")
    assert table.prompt_ids(("", 5, "", "a", 7)) == [5, *table.encode("a", special=True), 7]
    assert table.prompt_ids((5, 6)) == [5, 6]
    assert table.prompt_ids(("a", 9))[0] == bos
    assert table.prompt_ids("") == table.prompt_ids(()) == table.prompt_ids(("",)) == []
    assert table.prompt_ids("a<|user|>") == [
        bos, *table.encode("a", special=False), *table.encode("<|user|>", special=True),
    ]  # fmt: skip


def test_a_closed_prompt_ends_as_the_tokenizer_ends_a_text() -> None:
    reading = table_of("t5", strip_first=True)
    whole = tokenizer_of("t5")("the fox").input_ids
    assert whole[-1] == tokenizer_of("t5").eos_token_id
    assert reading.prompt_ids("the fox") == whole
    assert reading.prompt_ids("the fox</s>") == whole
    assert reading.prompt_ids("the fox", closed=False) == whole[:-1]
    assert reading.prompt_ids(("the fox", 5)) == [*whole[:-1], 5]
    assert table_of("t5").prompt_ids("the fox") == whole[:-1]
    assert table_of("t5").prompt_ids("the fox", closed=True) == whole
    bert = tokenizer_of("bert")("the fox").input_ids
    assert table_of("bert").prompt_ids("the fox", closed=True) == bert


def test_a_first_space_is_dropped_once_over_special_tokens() -> None:
    table, tokenizer = table_of("t5", strip_first=True), tokenizer_of("t5")
    pad = tokenizer.pad_token_id
    ids = [pad, *table.encode("the fox", special=False), pad]
    assert table.decode(ids) == decoded("t5", ids) == "the fox"
    read = table.reader()
    assert b"".join([read(each) for each in [*ids, *ids]]) == b"the fox the fox"


@pytest.mark.parametrize("name", NAMES)
def test_ids_beyond_the_tokenizer_have_no_text(name: str) -> None:
    table = table_of(name)
    assert len(table) == len(table._bytes) > max(table.special_ids)
    assert (table.bytes_of(len(table)), table.token(10**9)) == (b"", "")
    assert table.decode([len(table) + 7]) == ""
    assert table_of(name, strip_first=True).decode([10**9]) == ""


@pytest.mark.parametrize("name", ["demo", "llama", "t5", "tiktoken_in_python"])
def test_half_a_surrogate_pair_is_refused(name: str) -> None:
    for special in (True, False):
        with pytest.raises(InvalidRequestError, match="surrogate"):
            table_of(name).encode("a\ud800", special=special)


def test_what_is_set_in_the_tokenizer_does_not_cut_prompts() -> None:
    tokenizer = KINDS["gpt2"](Path())
    tokenizer.backend_tokenizer.enable_truncation(4)
    tokenizer.backend_tokenizer.enable_padding(length=64)
    table = TokenTable(tokenizer)
    assert len(table.encode("a " * 50, special=True)) == len(table.encode("a " * 50, special=False))
    tokenizer("a a a", truncation=True, max_length=2)
    tokenizer.split_special_tokens = True
    tokenizer("<|endoftext|>")
    assert len(table.encode("a " * 50, special=True)) > 50
    assert len(table.encode("<|endoftext|>", special=True)) == 1


def test_added_tokens_that_would_get_other_ids_are_refused() -> None:
    backend = Tokenizer(models.BPE(vocab={"a": 0}, merges=[]))
    backend.add_special_tokens(["<late>"])
    FastEncoder(backend, frozenset([1]))
    backend.model = models.BPE(vocab={"a": 0, "b": 1, "c": 2}, merges=[])
    with pytest.raises(EngineStartError, match="'<late>' has the id 1"):
        FastEncoder(backend, frozenset([1]))


@pytest.mark.spec("S1-30")
@pytest.mark.reliability("C-05")
@pytest.mark.parametrize("name", [name for name in NAMES if name not in IGNORES_BYTES])
def test_each_token_alone_and_behind_another(name: str) -> None:
    table = table_of(name, strip_first=True)
    known = [each for each, token in enumerate(table._tokens) if token is not None]
    anchor = table.encode("the", special=False)
    for each in known:
        for ids in ([each], [*anchor, each]):
            text = table.decode(ids)
            assert (text.strip() if name in STRIPS_THE_END else text) == decoded(name, ids)


@pytest.mark.reliability("C-14")
def test_two_threads_do_not_share_the_switch() -> None:
    table = table_of("demo")
    text = "x<|im_end|>" * 50
    (control,) = table.encode("<|im_end|>", special=True)
    wrong: list[bool] = []
    end = time.monotonic() + 0.5

    def encode(special: bool) -> None:
        while time.monotonic() < end:
            if (control in table.encode(text, special=special)) != special:
                wrong.append(special)

    threads = [threading.Thread(target=encode, args=(special,)) for special in (True, False)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_large_vocabulary_is_read_in_linear_time() -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    triples = islice(product(alphabet, repeat=3), 150_000)
    vocabulary = {token: at for at, token in enumerate([*alphabet, *map("".join, triples)])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(f"<|reserved_{n}|>") for n in range(6000)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    begin = time.process_time()
    table = TokenTable(fast)
    assert time.process_time() - begin < 20.0  # It takes half a second; with squares, minutes.
    assert len(table) == len(vocabulary) + 6000 > 150_000
