"""Model folders that are refused, each naming the file and the value, and nothing of them run."""

from __future__ import annotations

import json
import os
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openllm.errors import ModelFileError
from openllm.models.folder import read_folder
from tests.unit.model_folders import WEIGHTS, make_folder, packed, safetensors, write

INDEX = "model.safetensors.index.json"


def problem(path: Path | str, **options: Any) -> str:
    with pytest.raises(ModelFileError) as raised:
        read_folder(str(path), **options)
    message = raised.value.message
    assert "\n" not in message
    assert len(message) < 600
    return message


def test_what_is_no_model_folder(tmp_path: Path) -> None:
    assert "does not exist" in problem(tmp_path / "none")
    (tmp_path / "file").write_text("x")
    assert "is a file; give the folder" in problem(tmp_path / "file")
    assert "config.json does not exist" in problem(tmp_path)
    assert "null" in problem("a\0b")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b"[]", "must hold a JSON object, and holds a list"),
        (b"null", "holds a NoneType"),
        (b'{"a": \xff}', "is not JSON"),
        (b'{"a": NaN}', "NaN is no number"),
        (b'{"architectures": [NaN]}', "NaN"),
        (b'{"a":' * 10**5 + b"1" + b"}" * 10**5, "nested too deeply"),
        (b"[" * 10**5, "nested too deeply"),
        (b'{"a": ' + b"9" * 10**5 + b"}", "is not JSON"),
        (b'{"a": "' + b"x" * 2**24 + b'"}', "at most 16777216 are possible"),
    ],
    ids=range(11),
)
def test_config_that_is_none(tmp_path: Path, content: bytes, says: str) -> None:
    make_folder(tmp_path)
    (tmp_path / "config.json").write_bytes(content)
    message = problem(tmp_path)
    assert "config.json" in message
    assert says in message


@pytest.mark.parametrize("name", ["generation_config.json", "tokenizer_config.json"])
def test_other_settings_that_are_none(tmp_path: Path, name: str) -> None:
    make_folder(tmp_path)
    (tmp_path / name).write_text("[1]")
    assert name in problem(tmp_path)


@pytest.mark.parametrize("value", [None, [], "", [""], [3], {"a": 1}])
def test_no_architecture(tmp_path: Path, value: object) -> None:
    message = problem(make_folder(tmp_path, {"architectures": value}))
    assert "config.json names no architecture" in message
    assert 'write e.g. ["LlamaForCausalLM"]' in message


@pytest.mark.parametrize("value", ["int3", "Float16", 16, {"text_config": "q4"}, "torch.", [1]])
@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
def test_unknown_dtype(tmp_path: Path, key: str, value: object) -> None:
    message = problem(make_folder(tmp_path, {key: value}))
    assert f"unknown {key}" in message
    assert "bfloat16" in message


def test_unknown_dtype_of_the_language_model(tmp_path: Path) -> None:
    assert "'q4'" in problem(make_folder(tmp_path, {"text_config": {"dtype": "q4"}}))


@pytest.mark.parametrize("value", ["2", True, [1, "2"], {"a": 1}, 1.5])
def test_end_tokens_that_are_none(tmp_path: Path, value: object) -> None:
    assert "eos_token_id" in problem(make_folder(tmp_path, {"eos_token_id": value}))


CODE = """
import pathlib
pathlib.Path(__file__).with_name("canary").write_text("ran")
class CustomTokenizer: pass
class TinyForCausalLM: pass
"""
MAP = {"AutoModelForCausalLM": "modeling_tiny.TinyForCausalLM"}


@pytest.mark.spec("S2-18")
@pytest.mark.reliability("S-22")
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("config.json", {"auto_map": MAP}),
        ("config.json", {"text_config": {"vision": [{"auto_map": MAP}]}}),
        ("config.json", {"auto_map": {"AutoConfig": "someone/else--configuration_x.X"}}),
        (
            "tokenizer_config.json",
            {"auto_map": {"AutoTokenizer": ["tokenizer.CustomTokenizer", None]}},
        ),
        ("tokenizer_config.json", {"auto_map": ["tokenizer.CustomTokenizer", None]}),
        ("tokenizer_config.json", {"tokenizer_class": "CustomTokenizer"}),
        ("generation_config.json", {"auto_map": MAP}),
        ("config.json", {"_attn_implementation": "someone/kernel"}),
        ("config.json", {"text_config": {"attn_implementation": "someone/kernel@main"}}),
    ],
    ids=range(9),
)
def test_code_is_refused_and_not_run(tmp_path: Path, name: str, settings: dict[str, Any]) -> None:
    make_folder(tmp_path)
    for code in ("modeling_tiny.py", "tokenizer.py", "configuration_tiny.py"):
        (tmp_path / code).write_text(CODE)
    read = tmp_path / name
    write(read, {**(json.loads(read.read_text()) if read.exists() else {}), **settings})
    message = problem(tmp_path)
    assert "trust_remote_code" in message
    assert name in message
    assert not (tmp_path / "canary").exists()
    folder = read_folder(str(tmp_path), trust_remote_code=True)
    assert folder.architecture == "TinyForCausalLM"
    assert not (tmp_path / "canary").exists()


def test_code_that_nothing_asks_for_is_no_matter(tmp_path: Path) -> None:
    make_folder(tmp_path, {"auto_map": {}})
    (tmp_path / "train.py").write_text(CODE)
    write(tmp_path / "tokenizer_config.json", {"tokenizer_class": "LlamaTokenizer"})
    read_folder(str(tmp_path))


@pytest.mark.reliability("S-22")
@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "model.pt", "weights.pth", "last.ckpt", "tf_model.h5", "m.pkl"]
)
@pytest.mark.parametrize("trust", [False, True])
def test_pickles_are_refused(tmp_path: Path, name: str, trust: bool) -> None:
    make_folder(tmp_path, weights=False)
    canary = tmp_path / "canary"
    (tmp_path / name).write_bytes(b"cos\nsystem\n(S'touch " + str(canary).encode() + b"'\ntR.")
    message = problem(tmp_path, trust_remote_code=trust)
    assert name in message
    assert "can run code" in message
    assert "save_pretrained" in message
    assert not canary.exists()


def test_pickles_beside_safetensors_are_not_used(tmp_path: Path) -> None:
    make_folder(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"cos\nsystem\n.")
    assert read_folder(str(tmp_path)).weight_files == ("model.safetensors",)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("consolidated.safetensors", "is not named by model.safetensors.index.json"),
        ("model-00001-of-00002.safetensors", "add the index"),
        ("model.gguf", "give its path instead"),
        ("readme.md", "model.safetensors does not exist"),
    ],
)
def test_no_weights(tmp_path: Path, name: str, says: str) -> None:
    make_folder(tmp_path, weights=False)
    (tmp_path / name).write_bytes(WEIGHTS)
    assert says in problem(tmp_path)


def test_an_adapter_is_no_model(tmp_path: Path) -> None:
    write(tmp_path / "adapter_config.json", {"base_model_name_or_path": "someone/else"})
    assert "adapter_config.json makes this an adapter" in problem(tmp_path)


@pytest.mark.reliability("F-13", "S-22")
@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("../x.safetensors", "no file in its folder"),
        ("/etc/x.safetensors", "no file in its folder"),
        ("sub/x.safetensors", "no file in its folder"),
        ("..\\x.safetensors", "no file in its folder"),
        ("..", "no file in its folder"),
        ("", "no file in its folder"),
        ("x\0.safetensors", "no file in its folder"),
        ("pytorch_model.bin", "is not safetensors"),
        ("gone.safetensors", "which is missing"),
        ("y" * 300 + ".safetensors", "cannot be read"),
    ],
)
@pytest.mark.parametrize("single", [True, False])
def test_index_that_names_no_shard(tmp_path: Path, place: str, says: str, single: bool) -> None:
    folder = tmp_path / "m"
    (folder / "sub").mkdir(parents=True)
    make_folder(folder, weights=single)
    for there in (tmp_path / "x.safetensors", folder / "sub" / "x.safetensors"):
        there.write_bytes(WEIGHTS)
    (folder / "pytorch_model.bin").write_bytes(b"x")
    write(folder / INDEX, {"weight_map": {"a": place}})
    assert says in problem(folder)


@pytest.mark.parametrize(
    "content",
    [b"{}", b"[", b'{"weight_map": {"a": 1}}', b'{"weight_map": {}}', b'{"weight_map":' * 9**5],
)
def test_index_that_is_none(tmp_path: Path, content: bytes) -> None:
    make_folder(tmp_path, weights=False)
    (tmp_path / INDEX).write_bytes(content)
    assert INDEX in problem(tmp_path)


@pytest.mark.reliability("F-13")
def test_shards_in_each_others_place(tmp_path: Path) -> None:
    make_folder(tmp_path, weights=False)
    write(tmp_path / INDEX, {"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}})
    one, two = safetensors({"a": ("F32", (1,))}), safetensors({"b": ("F32", (1,))})
    (tmp_path / "1.safetensors").write_bytes(one)
    (tmp_path / "2.safetensors").write_bytes(two)
    read_folder(str(tmp_path))
    (tmp_path / "1.safetensors").write_bytes(two)
    (tmp_path / "2.safetensors").write_bytes(one)
    assert "lacks 'a'" in problem(tmp_path)


def entry(begin: int, end: int, *, dtype: str = "F32", shape: object = (1,)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.reliability("F-13")
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "damaged or truncated"),
        (b"1234567", "damaged or truncated"),
        (struct.pack("<Q", 2**60) + b"{}", "damaged or truncated"),
        (struct.pack("<Q", 3) + b"{}", "damaged or truncated"),
        (struct.pack("<Q", 0), "damaged or truncated"),
        (struct.pack("<Q", 2) + b"{]", "damaged header"),
        (struct.pack("<Q", 2) + b"[]", "damaged header"),
        (struct.pack("<Q", 600_000) + b'{"a":' * 120_000, "damaged header"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
        (packed({"a": entry(0, 4, dtype="X9")}, 4), "unknown type 'X9'"),
        (packed({"a": entry(0, 4, shape=(2,))}, 4), "not its shape's"),
        (packed({"a": entry(0, 4, shape=(-1,))}, 4), "damaged header"),
        (packed({"a": entry(0, 4, shape=[2**62] * 17)}, 4), "damaged header"),
        (packed({"a": entry(4, 0)}, 4), "expected 0"),
        (packed({"a": entry(0, 4), "b": entry(2, 6)}, 6), "begins at 2, expected 4"),
        (packed({"a": entry(0, 4), "b": entry(5, 9)}, 9), "begins at 5, expected 4"),
        (packed({"a": entry(0, 4)}, 3), "truncated: its tensors take 4 bytes and 3 follow"),
        (packed({"a": entry(0, 4)}, 5), "is damaged: its tensors take 4 bytes and 5 follow"),
        (packed({"a": {"dtype": "F32"}}, 4), "damaged header"),
    ],
    ids=range(19),
)
def test_weights_that_are_damaged(tmp_path: Path, content: bytes, says: str) -> None:
    make_folder(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(content)
    message = problem(tmp_path)
    assert "model.safetensors" in message
    assert says in message


@pytest.mark.reliability("F-13")
@settings(max_examples=200, deadline=None)
@given(at=st.integers(0, len(WEIGHTS) - 1), bit=st.integers(0, 7), cut=st.booleans())
def test_no_damage_to_a_header_is_worse_than_a_refusal(
    tmp_path_factory: pytest.TempPathFactory, at: int, bit: int, cut: bool
) -> None:
    path = tmp_path_factory.mktemp("m")
    make_folder(path)
    content = bytearray(WEIGHTS)
    content[at] ^= 1 << bit
    (path / "model.safetensors").write_bytes(content[:at] if cut else content)
    if cut:
        problem(path)
        return
    with suppress(ModelFileError):
        assert read_folder(str(path)).weight_bytes == len(WEIGHTS)


@pytest.mark.reliability("S-22")
@pytest.mark.parametrize(
    "template",
    [
        "../../x",
        "/etc/passwd",
        "..\\x",
        "other.jinja",
        [{"name": "../../x", "template": "{{ 1 }}"}],
        [{"name": "default", "template": "../../x"}],
        [{"name": "..", "template": "{{ 1 }}"}],
    ],
    ids=repr,
)
def test_chat_template_that_is_a_path(tmp_path: Path, template: object) -> None:
    make_folder(tmp_path)
    write(tmp_path / "tokenizer_config.json", {"chat_template": template})
    message = problem(tmp_path)
    assert "tokenizer_config.json" in message
    assert "a path" in message


@pytest.mark.parametrize(
    "template", [7, ["x"], [{"template": "{{ 1 }}"}], [{"name": "a"}], {"a": 1}]
)
def test_chat_template_that_is_none(tmp_path: Path, template: object) -> None:
    make_folder(tmp_path)
    write(tmp_path / "tokenizer_config.json", {"chat_template": template})
    assert "chat_template" in problem(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
    assert "is not UTF-8" in problem(tmp_path)


@pytest.mark.parametrize(
    "content", [b"[", b'{"added_tokens": 3}', b'{"added_tokens": [{"id": 1}]}', b'{"a":' * 9**5]
)
def test_tokenizer_that_is_none(tmp_path: Path, content: bytes) -> None:
    make_folder(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(content)
    assert "tokenizer.json is no tokenizer" in problem(tmp_path)


@pytest.mark.parametrize(
    "config",
    [
        {"pooling_mode_max_tokens": True},
        {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True},
        {"pooling_mode": "weightedmean"},
        {"pooling_mode": {}},
        {},
    ],
)
def test_pooling_no_engine_offers(tmp_path: Path, config: dict[str, Any]) -> None:
    make_folder(tmp_path)
    (tmp_path / "1_Pooling").mkdir()
    write(tmp_path / "1_Pooling" / "config.json", config)
    assert "asks for the pooling" in problem(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_what_is_no_file(tmp_path: Path, name: str) -> None:
    make_folder(tmp_path)
    (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / name).symlink_to(tmp_path / "gone")
    assert f"{name} is a link to a file that does not exist" in problem(tmp_path)
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    assert f"{name} is not a file" in problem(tmp_path)
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    assert f"{name} is not a file" in problem(tmp_path)


def test_a_long_or_strange_value_is_shown_short(tmp_path: Path) -> None:
    problem(make_folder(tmp_path, {"dtype": "x" * 10**6}))
    problem(make_folder(tmp_path, {"a" * 10**5: {"auto_map": MAP}}))
    odd = tmp_path / "new\nline"
    odd.mkdir()
    assert "new\\nline" in problem(odd)
