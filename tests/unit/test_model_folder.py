"""What a model folder says is read; see test_model_folder_refusals for what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import openllm
from openllm.models.folder import read_folder
from tests.unit.model_folders import make_folder, safetensors, write

DEMO = Path(openllm.__file__).parent / "demo" / "safetensors"
BOS = {"SpecialToken": {"id": "<s>", "type_id": 0}}
TEXT = {"Sequence": {"id": "A", "type_id": 0}}
BYTES = {"type": "ByteLevel", "add_prefix_space": True}
EOS = {"SpecialToken": {"id": "</s>", "type_id": 0}}
TEMPLATE = {"type": "TemplateProcessing", "pair": [], "special_tokens": {}}


def test_the_bundled_model_is_read() -> None:
    folder = read_folder(str(DEMO))
    assert (folder.architecture, folder.model_type) == ("LlamaForCausalLM", "llama")
    assert (folder.dtype, folder.context_length) == ("bfloat16", 1024)
    assert folder.config["hidden_size"] == 256
    assert not folder.encoder_decoder
    assert "<|im_start|>assistant" in folder.chat_template
    assert folder.control_tokens == ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>")
    assert (folder.bos_token, folder.eos_token) == ("<|endoftext|>", "<|im_end|>")
    assert not folder.add_bos
    assert folder.eos_token_ids == (2, 0)
    assert folder.pooling is None
    assert folder.weight_files == ("model.safetensors",)
    assert folder.weight_bytes == (DEMO / "model.safetensors").stat().st_size


def test_what_is_not_said_is_empty(tmp_path: Path) -> None:
    folder = read_folder(make_folder(tmp_path))
    assert (folder.chat_template, folder.bos_token, folder.eos_token) == ("", "", "")
    assert (folder.control_tokens, folder.eos_token_ids) == ((), ())
    assert (folder.context_length, folder.pooling, folder.add_bos) == (None, None, False)


def test_no_model_library_is_loaded() -> None:
    code = (
        "import sys; from openllm.models.folder import read_folder;"
        f"read_folder({str(DEMO)!r});"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & {"torch", "transformers", "tokenizers", "safetensors"}


@pytest.mark.spec("S1-23")
@pytest.mark.parametrize(
    ("config", "context"),
    [
        ({"max_position_embeddings": 2048}, 2048),
        ({"n_positions": 1024}, 1024),
        ({"max_seq_len": 8192}, 8192),
        ({"seq_length": 32768}, 32768),
        ({"n_ctx": 512}, 512),
        ({"text_config": {"max_position_embeddings": 131072}}, 131072),
        ({"max_position_embeddings": 64, "text_config": {"n_ctx": 7}}, 64),
        ({"max_position_embeddings": None, "n_ctx": 5}, 5),
        ({"max_position_embeddings": -1}, None),
        ({"max_position_embeddings": True}, None),
        ({"text_config": "none"}, None),
    ],
)
def test_context_length(tmp_path: Path, config: dict[str, Any], context: int | None) -> None:
    assert read_folder(make_folder(tmp_path, config)).context_length == context


@pytest.mark.parametrize(
    ("config", "dtype"),
    [
        ({}, "float32"),
        ({"dtype": "bfloat16"}, "bfloat16"),
        ({"torch_dtype": "float16"}, "float16"),
        ({"torch_dtype": "torch.float16"}, "float16"),
        ({"dtype": None, "torch_dtype": "half"}, "float16"),
        ({"dtype": "bfloat16", "torch_dtype": "float16"}, "bfloat16"),
        ({"torch_dtype": "auto"}, "float32"),
        ({"dtype": ""}, "float32"),
        ({"dtype": {"": "bfloat16", "text_config": "float16"}}, "bfloat16"),
        ({"text_config": {"dtype": "float8_e4m3fn"}}, "float8_e4m3fn"),
    ],
)
def test_dtype_is_the_stated_one_or_the_weights(
    tmp_path: Path, config: dict[str, Any], dtype: str
) -> None:
    assert read_folder(make_folder(tmp_path, config)).dtype == dtype


def test_dtype_of_the_weights_is_that_of_most_bytes(tmp_path: Path) -> None:
    path = make_folder(tmp_path)
    many, few = ("BF16", (64, 64)), ("F32", (2,))
    (tmp_path / "model.safetensors").write_bytes(safetensors({"a": few, "b": many, "c": few}))
    assert read_folder(path).dtype == "bfloat16"
    (tmp_path / "model.safetensors").write_bytes(safetensors({"a": few, "b": ("I8", (64,))}))
    assert read_folder(path).dtype == ""


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"is_encoder_decoder": True}, True),
        ({"model_type": "t5"}, True),
        ({"model_type": "t5", "is_encoder_decoder": False}, False),
        ({"model_type": "llama"}, False),
    ],
)
def test_encoder_decoder(tmp_path: Path, config: dict[str, Any], expected: bool) -> None:
    assert read_folder(make_folder(tmp_path, config)).encoder_decoder is expected


@pytest.mark.parametrize(
    ("generation", "config", "ids"),
    [
        ({"eos_token_id": [2, 0]}, {"eos_token_id": 2}, (2, 0)),
        (None, {"eos_token_id": 7}, (7,)),
        ({"eos_token_id": None}, {"text_config": {"eos_token_id": [1, 106]}}, (1, 106)),
        ({"eos_token_id": 5}, {"eos_token_id": -1}, (5,)),
    ],
)
def test_end_tokens(
    tmp_path: Path,
    generation: dict[str, Any] | None,
    config: dict[str, Any],
    ids: tuple[int, ...],
) -> None:
    path = make_folder(tmp_path, config)
    if generation is not None:
        write(tmp_path / "generation_config.json", generation)
    assert read_folder(path).eos_token_ids == ids


def test_chat_template_has_three_places(tmp_path: Path) -> None:
    path = make_folder(tmp_path)
    write(tmp_path / "chat_template.json", {"chat_template": "{{ 'old' }}"})
    assert read_folder(path).chat_template == "{{ 'old' }}"
    write(tmp_path / "tokenizer_config.json", {"chat_template": "{{ 'settings' }}"})
    assert read_folder(path).chat_template == "{{ 'settings' }}"
    (tmp_path / "chat_template.jinja").write_text("{{ 'file é' }}", encoding="utf-8")
    assert read_folder(path).chat_template == "{{ 'file é' }}"


def test_of_several_chat_templates_the_default_is_taken(tmp_path: Path) -> None:
    path = make_folder(tmp_path)
    several = [
        {"name": "tool_use", "template": "{{ 1 }}"},
        {"name": "default", "template": "{{ 2 }}"},
    ]
    write(tmp_path / "tokenizer_config.json", {"chat_template": several})
    assert read_folder(path).chat_template == "{{ 2 }}"


def test_control_tokens_come_from_every_file(tmp_path: Path) -> None:
    path = make_folder(tmp_path)
    added = [
        {"id": 0, "content": "<s>", "special": True},
        {"id": 1, "content": "<think>", "special": False},
        {"id": 2, "content": " ", "special": True},
    ]
    write(tmp_path / "tokenizer.json", {"added_tokens": added, "model": {"vocab": {"a": 0}}})
    write(
        tmp_path / "tokenizer_config.json",
        {
            "added_tokens_decoder": {
                "5": {"content": "<|tool|>", "special": True},
                "6": {"content": "<plain>", "special": False},
            },
            "additional_special_tokens": ["<a>", {"content": "<b>"}],
            "extra_special_tokens": {"image_token": "<image>"},
            "bos_token": {"content": "<s>", "lstrip": False},
            "pad_token": None,
            "add_bos_token": True,
        },
    )
    write(tmp_path / "special_tokens_map.json", {"eos_token": "</s>", "bos_token": "<other>"})
    folder = read_folder(path)
    assert set(folder.control_tokens) == {
        "<s>", "<|tool|>", "<a>", "<b>", "<image>", "</s>", "<other>",
    }  # fmt: skip
    assert (folder.bos_token, folder.eos_token) == ("<s>", "</s>")


@pytest.mark.reliability("C-08")
@pytest.mark.parametrize(
    ("processor", "expected"),
    [
        (None, False),
        (BYTES, False),
        (TEMPLATE | {"single": [BOS, TEXT]}, True),
        (TEMPLATE | {"single": [TEXT, EOS]}, False),
        (TEMPLATE | {"single": [EOS, TEXT]}, False),
        ({"type": "Sequence", "processors": [BYTES, TEMPLATE | {"single": [BOS]}]}, True),
        ({"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 0]}, True),
        ({"type": "BertProcessing", "sep": ["[SEP]", 2], "cls": ["[CLS]", 0]}, False),
    ],
)  # fmt: skip
def test_the_post_processor_says_whether_bos_is_added(
    tmp_path: Path, processor: dict[str, Any] | None, expected: bool
) -> None:
    path = make_folder(tmp_path)
    write(tmp_path / "tokenizer.json", {"added_tokens": [], "post_processor": processor})
    for flag in (True, False):  # transformers 5 ignores it beside tokenizer.json.
        write(tmp_path / "tokenizer_config.json", {"bos_token": "<s>", "add_bos_token": flag})
        assert read_folder(path).add_bos is expected


@pytest.mark.parametrize("flag", [True, False])
def test_without_tokenizer_json_the_flag_says_it(tmp_path: Path, flag: bool) -> None:
    path = make_folder(tmp_path)
    write(tmp_path / "tokenizer_config.json", {"bos_token": "<s>", "add_bos_token": flag})
    assert read_folder(path).add_bos is flag


@pytest.mark.parametrize(
    ("config", "pooling"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "mean"),
        ({"pooling_mode_lasttoken": True}, "last"),
        ({"pooling_mode_cls_token": True, "word_embedding_dimension": 384}, "cls"),
        ({"pooling_mode": "mean"}, "mean"),
    ],
)
def test_pooling(tmp_path: Path, config: dict[str, Any], pooling: str) -> None:
    path = make_folder(tmp_path)
    (tmp_path / "1_Pooling").mkdir()
    write(tmp_path / "1_Pooling" / "config.json", config)
    assert read_folder(path).pooling == pooling


def test_shards_are_found_by_their_index(tmp_path: Path) -> None:
    path = make_folder(tmp_path, weights=False)
    (tmp_path / "b.safetensors").write_bytes(
        safetensors({"x": ("F16", (3,)), "y": ("F16", (0, 9))})
    )
    (tmp_path / "a.safetensors").write_bytes(safetensors({"z": ("F16", ())}))
    places = {"x": "b.safetensors", "y": "b.safetensors", "z": "a.safetensors"}
    write(tmp_path / "model.safetensors.index.json", {"metadata": {}, "weight_map": places})
    folder = read_folder(path)
    assert folder.weight_files == ("a.safetensors", "b.safetensors")
    assert folder.weight_bytes == sum(
        (tmp_path / name).stat().st_size for name in folder.weight_files
    )
    assert folder.dtype == "float16"


def test_one_file_goes_before_shards(tmp_path: Path) -> None:
    path = make_folder(tmp_path)
    (tmp_path / "a.safetensors").write_bytes(safetensors({"z": ("F16", ())}))
    write(tmp_path / "model.safetensors.index.json", {"weight_map": {"z": "a.safetensors"}})
    assert read_folder(path).weight_files == ("model.safetensors",)


def test_links_are_followed_as_hub_caches_have_them(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    blobs.mkdir()
    snapshot.mkdir()
    for name in os.listdir(DEMO):
        (blobs / name).write_bytes((DEMO / name).read_bytes())
        (snapshot / name).symlink_to(Path("..") / "blobs" / name)
    folder = read_folder(str(snapshot))
    assert folder.weight_bytes == (DEMO / "model.safetensors").stat().st_size


def test_infinities_of_real_configurations_are_read(tmp_path: Path) -> None:
    path = make_folder(tmp_path)
    text = json.dumps(
        {"architectures": ["Mamba2ForCausalLM"], "time_step_limit": [0.0, float("inf")]}
    )
    (tmp_path / "config.json").write_text(text)
    assert read_folder(path).config["time_step_limit"] == [0.0, float("inf")]


def test_headers_with_many_tensors_are_read_quickly(tmp_path: Path) -> None:
    path = make_folder(tmp_path)
    many = {f"model.layers.{i}.mlp.experts.weight": ("BF16", (1, 1)) for i in range(50_000)}
    (tmp_path / "model.safetensors").write_bytes(safetensors(many))
    assert read_folder(path).weight_bytes > 100_000
