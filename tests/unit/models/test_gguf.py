from __future__ import annotations

import struct
import time
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFWriter, TokenType

from openllm.errors import ModelFileError
from openllm.models.gguf import read_header
from tests.unit.models.gguf_bytes import (
    ARRAY,
    BOOL,
    DATA_SIZE,
    FLOAT32,
    INT32,
    STRING,
    UINT8,
    UINT32,
    Metadata,
    Tensor,
    build,
    right_metadata,
)

EPSILON = "llama.attention.layer_norm_rms_epsilon"


def written(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    return path


def problem(path: Path) -> str:
    with pytest.raises(ModelFileError) as raised:
        read_header(path)
    assert raised.value.message.startswith("model.gguf ")
    assert "\n" not in raised.value.message
    return raised.value.message.removeprefix("model.gguf ")


def changed(**entries: tuple[int, object]) -> Metadata:
    return right_metadata() | {key.replace("__", "."): value for key, value in entries.items()}


def test_header_says_what_the_file_says(tmp_path: Path) -> None:
    header = read_header(written(tmp_path, build().content))
    assert (header.version, header.architecture, header.name) == (3, "llama", "tiny")
    assert (header.file_type, header.context_length, header.embedding_length) == (7, 512, 32)
    assert (header.block_count, header.head_count, header.head_count_kv) == (2, 4, None)
    assert (header.vocab_size, header.add_bos) == (7, True)
    assert (header.bos_token_id, header.bos_token) == (1, "<s>")
    assert (header.eos_token_id, header.eos_token) == (2, "</s>")
    assert header.chat_template == "{{ messages }}"
    assert header.tensor_count == 2
    assert header.parameter_count == 32 * 7 + 32 * 2
    assert header.data_size == DATA_SIZE


def test_file_of_the_gguf_package_is_read(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(512)
    writer.add_token_list(["<s>", "a"])
    writer.add_token_types([TokenType.CONTROL, TokenType.NORMAL])
    writer.add_tensor("a", np.zeros((7, 32), dtype=np.float16))
    rows = np.zeros((3, 144 * 2), dtype=np.uint8)
    writer.add_tensor("b", rows, raw_dtype=GGMLQuantizationType.Q4_K)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    header = read_header(str(path))
    assert (header.context_length, header.control_tokens) == (512, ("<s>",))
    assert header.parameter_count == 7 * 32 + 3 * 512
    assert header.data_size == 7 * 32 * 2 + 3 * 288


def test_what_the_file_does_not_say_is_none_or_empty(tmp_path: Path) -> None:
    metadata: Metadata = {"general.architecture": (STRING, "mamba")}
    header = read_header(written(tmp_path, build(metadata).content))
    assert (header.name, header.chat_template, header.context_length) == ("", None, None)
    assert (header.vocab_size, header.bos_token, header.control_tokens) == (0, "", ())
    assert header.add_bos is False


@pytest.mark.parametrize(
    ("template", "known"),
    [("{{ messages }}", ("<s>", "</s>")), ("<tool>{{ messages }}", ("<s>", "</s>", "<tool>"))],
)
def test_control_tokens_are_control_and_what_the_template_writes_but_not_blank(
    tmp_path: Path, template: str, known: tuple[str, ...]
) -> None:
    metadata = changed(tokenizer__chat_template=(STRING, template))
    assert read_header(written(tmp_path, build(metadata).content)).control_tokens == known


@pytest.mark.parametrize("version", [2, 3])
def test_both_versions_are_read(tmp_path: Path, version: int) -> None:
    assert read_header(written(tmp_path, build(version=version).content)).version == version


@pytest.mark.parametrize(
    ("model", "pre", "adds"),
    [
        ("llama", "", True),
        ("gpt2", "llama-bpe", True),
        ("gemma4", "", True),
        ("gpt2", "midm-2.0", True),
        ("gpt2", "qwen2", False),
    ],
)
def test_bos_is_added_where_llama_cpp_adds_it(
    tmp_path: Path, model: str, pre: str, adds: bool
) -> None:
    metadata = changed(tokenizer__ggml__model=(STRING, model), tokenizer__ggml__pre=(STRING, pre))
    del metadata["tokenizer.ggml.add_bos_token"]
    assert read_header(written(tmp_path, build(metadata).content)).add_bos is adds
    metadata["tokenizer.ggml.add_bos_token"] = (BOOL, not adds)
    assert read_header(written(tmp_path, build(metadata).content)).add_bos is not adds


def test_token_ids_outside_of_the_vocabulary_count_as_absent(tmp_path: Path) -> None:
    metadata = changed(
        tokenizer__ggml__bos_token_id=(UINT32, 7),
        tokenizer__ggml__eos_token_id=(UINT32, 2**32 - 1),
    )
    header = read_header(written(tmp_path, build(metadata).content))
    assert (header.bos_token_id, header.bos_token) == (None, "")
    assert (header.eos_token_id, header.eos_token) == (None, "")


def test_large_vocabulary_is_read_quickly(tmp_path: Path) -> None:
    tokens = [f"token{i:06d}" for i in range(150_000)]
    metadata = changed(
        tokenizer__ggml__tokens=(ARRAY, (STRING, tokens)),
        tokenizer__ggml__token_type=(ARRAY, (INT32, [1] * 149_000 + [3] * 1000)),
        tokenizer__ggml__merges=(ARRAY, (STRING, tokens)),
    )
    del metadata["tokenizer.ggml.scores"]
    path = written(tmp_path, build(metadata).content)
    seconds = []
    for _ in range(3):
        started = time.process_time()
        header = read_header(path)
        seconds.append(time.process_time() - started)
    assert header.control_tokens == tuple(tokens[149_000:])
    assert min(seconds) < 0.3


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is not a GGUF file: it has 0 bytes."),
        (b"GGU", "is not a GGUF file: it has 3 bytes."),
        (b"PK\x03\x04" * 9, r"is not a GGUF file: it begins with b'PK\x03\x04'."),
        (b"GGUF", "is truncated: needs at least 8 bytes, has 4."),
        (b"GGUF\x01" + bytes(40), "has GGUF version 1, supported are 2 and 3"),
        (b"GGUF\x04" + bytes(40), "has GGUF version 4, supported are 2 and 3"),
        (b"GGUF" + struct.pack(">I", 3) + bytes(40), "is a big-endian GGUF file"),
    ],
)
def test_file_that_is_no_gguf_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    assert problem(written(tmp_path, content)).startswith(said)


def test_truncated_data_is_named_with_both_sizes(tmp_path: Path) -> None:
    content = build().content
    size = len(content)
    said = problem(written(tmp_path, content[: size - 1]))
    assert said == f"is truncated: needs {size} bytes, has {size - 1}."


NAME_63, NAME_64 = "n" * 63, "n" * 64


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ((), "holds no tensors"),
        ((("t", (32,), 0, 0), ("t", (32,), 0, 128)), "has the tensor 't' twice"),
        (((NAME_64, (32,), 0, 0),), "a tensor name claims 64 bytes"),
        ((("t", (1, 1, 1, 1, 1), 0, 0),), "it claims 5 dimensions of the tensor 't'"),
        ((("t", (32, 0), 0, 0),), "the tensor 't' has the impossible shape [32, 0]"),
        ((("t", (2**32, 2**32), 0, 0),), "the tensor 't' has the impossible shape"),
        ((("t", (2**40, 2**20), 0, 0),), "is truncated: needs"),
        ((("t", (33,), 8, 0),), "rows of the tensor 't' are no multiple of 32"),
        ((("t", (32,), 4, 0),), "has the tensor 't' of the unknown type 4"),
        ((("t", (32,), 0, 16),), "the tensor 't' is at offset 16, not 0"),
        ((("t", (3,), 0, 0), ("u", (3,), 0, 12)), "the tensor 'u' is at offset 12, not 32"),
        ((("blk.0.attn_norm.weight", (32,), 1, 0),), "'blk.0.attn_norm.weight' of type 1, not fl"),
        ((("blk.0.attn_q.bias", (32,), 8, 0),), "'blk.0.attn_q.bias' of type 8, not float32"),
    ],
)
def test_wrong_tensors(tmp_path: Path, tensors: tuple[Tensor, ...], said: str) -> None:
    assert said in problem(written(tmp_path, build(tensors=tensors).content))


def test_longest_tensor_name_is_read(tmp_path: Path) -> None:
    path = written(tmp_path, build(tensors=((NAME_63, (32,), 0, 0),)).content)
    assert read_header(path).parameter_count == 32


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("general.architecture", (UINT32, 1), "'general.architecture' is not a text"),
        ("general.architecture", (STRING, ""), "does not name its architecture"),
        ("general.architecture", (STRING, b"\xff"), "general.architecture is not UTF-8"),
        ("general.type", (STRING, "adapter"), "is no model: it says it is of the type 'adapter'"),
        ("split.count", (UINT32, 3), "is one of 3 parts"),
        ("general.alignment", (UINT32, 24), "its alignment 24 is no power of two"),
        ("general.alignment", (UINT32, 0), "its alignment 0 is no power of two"),
        ("general.alignment", (UINT32, 1), "its alignment 1 is no power of two from 32"),
        ("general.alignment", (UINT32, 16), "its alignment 16 is no power of two from 32"),
        ("general.alignment", (INT32, 32), "its alignment is not a 32-bit number"),
        ("llama.context_length", (STRING, "512"), "'llama.context_length' is not a whole number"),
        ("llama.context_length", (BOOL, True), "'llama.context_length' is not a whole number"),
        ("llama.context_length", (UINT32, 0), "'llama.context_length' is 0"),
        ("llama.context_length", (UINT32, 2), "'llama.context_length' is 2"),
        ("llama.block_count", (INT32, -1), "'llama.block_count' is -1"),
        ("llama.block_count", (UINT32, 513), "'llama.block_count' is 513"),
        (EPSILON, (FLOAT32, -1e-5), "layer_norm_rms_epsilon' is -9.99"),
        (EPSILON, (FLOAT32, float("nan")), "layer_norm_rms_epsilon' is nan, no positive number"),
        (EPSILON, (UINT32, 0), "layer_norm_rms_epsilon' is 0, no positive number"),
        ("tokenizer.ggml.add_bos_token", (UINT32, 1), "is not a truth value"),
        ("tokenizer.ggml.tokens", (STRING, "a"), "is not an array of the right type"),
        ("tokenizer.ggml.tokens", (ARRAY, (UINT8, [1] * 7)), "is not an array of the right type"),
        ("tokenizer.ggml.merges", (ARRAY, (UINT8, [1])), "is not an array of the right type"),
        ("tokenizer.ggml.scores", (ARRAY, (FLOAT32, [0.0])), "7 tokens have 1 scores"),
        ("tokenizer.ggml.token_type", (ARRAY, (INT32, [3] * 8)), "7 tokens have 8 types"),
        ("tokenizer.ggml.tokens", (ARRAY, (STRING, [*"abcdeb", "f"])), "1 and 5 are both 'b'"),
        ("tokenizer.ggml.tokens", (ARRAY, (STRING, [*"abcdef", "g" * 2000])), "token 6 claims 20"),
        ("tokenizer.ggml.tokens", (ARRAY, (STRING, ["a", b"\xff", *"bcdef"])), "token 1 is not UT"),
        ("tokenizer.chat_template", (STRING, "x" * 200_000), "claims 200000 bytes"),
        ("k" * 2000, (UINT8, 1), "a metadata key claims 2000 bytes"),
        ("nested", (ARRAY, (ARRAY, [(UINT8, [1])])), "'nested' is an array of the unsupported"),
    ],
)
def test_wrong_metadata(tmp_path: Path, key: str, value: tuple[int, object], said: str) -> None:
    path = written(tmp_path, build(right_metadata() | {key: value}).content)
    assert said in problem(path)


def test_tokens_without_text_are_told_apart(tmp_path: Path) -> None:
    metadata = changed(tokenizer__ggml__tokens=(ARRAY, (STRING, ["", "<s>", "", "a", "", "", "b"])))
    assert read_header(written(tmp_path, build(metadata).content)).control_tokens == ("<s>", "a")


def test_more_tokens_than_any_model_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openllm.models.gguf_vocabulary.MAX_TOKENS", 6)
    assert "has 7 tokens; at most 6 are supported" in problem(written(tmp_path, build().content))


def test_key_that_comes_twice(tmp_path: Path) -> None:
    content = bytes(build().content).replace(b"general.name", b"general.type")
    assert "has the metadata key 'general.type' twice" in problem(written(tmp_path, content))


def test_what_is_no_readable_file(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").mkdir()
    assert problem(tmp_path / "model.gguf") == "is not a file."
    with pytest.raises(ModelFileError, match=r"missing\.gguf does not exist"):
        read_header(tmp_path / "missing.gguf")
    with pytest.raises(ModelFileError, match=r"'a\\x00b.gguf' is no possible file name"):
        read_header(str(tmp_path / "a\0b.gguf"))


def test_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, build().content)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    # Permissions do not stop the superuser, so the refusal is made here.
    monkeypatch.setattr("builtins.open", refuse)
    assert problem(path) == "cannot be read: Permission denied."


def test_device_is_refused_without_waiting_for_it() -> None:
    with pytest.raises(ModelFileError, match="zero is not a file"):
        read_header("/dev/zero")
