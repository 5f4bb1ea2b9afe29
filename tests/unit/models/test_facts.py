"""What models keep of a token, against figures worked out by hand from their published sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openllm.errors import ModelFileError
from openllm.models.facts import ModelFacts, facts_of
from openllm.models.facts_config import Cache, Shape, shape_of_config
from openllm.types import LocalModel
from tests.unit.model_folders import make_folder, safetensors
from tests.unit.models.gguf_bytes import ARRAY, BOOL, UINT32, Metadata, build, right_metadata


def kept(shape: Shape) -> int:
    """Return the numbers that a token adds to the cache while no window is full."""
    return sum(cache.layers * cache.numbers for cache in shape.caches)


LLAMA_3_8B = {
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "vocab_size": 128256,
}
QWEN_2_7B = LLAMA_3_8B | {
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "hidden_size": 3584,
    "sliding_window": 131072,
    "use_sliding_window": False,
}
GEMMA_3_4B = {
    "model_type": "gemma3",
    "text_config": {
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "hidden_size": 2560,
        "sliding_window": 1024,
    },
}
DEEPSEEK_V3 = {
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "hidden_size": 7168,
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
}
FALCON_7B = {
    "model_type": "falcon",
    "num_hidden_layers": 32,
    "num_attention_heads": 71,
    "hidden_size": 4544,
    "multi_query": True,
}
FALCON_40B = {
    "model_type": "falcon",
    "num_hidden_layers": 60,
    "num_attention_heads": 128,
    "num_kv_heads": 8,
    "hidden_size": 8192,
    "new_decoder_architecture": True,
    "multi_query": True,
}
STARCODER = {
    "model_type": "gpt_bigcode",
    "n_layer": 40,
    "n_head": 48,
    "n_embd": 6144,
    "multi_query": True,
}
MPT_7B = {"n_layers": 32, "n_heads": 32, "d_model": 4096, "attn_config": {"attn_type": "x"}}
CHATGLM_6B = {
    "num_layers": 28,
    "num_attention_heads": 32,
    "kv_channels": 128,
    "hidden_size": 4096,
    "multi_query_attention": True,
    "multi_query": True,
    "multi_query_group_num": 2,
}
FLAN_T5_SMALL = {
    "is_encoder_decoder": True,
    "num_layers": 8,
    "num_decoder_layers": 8,
    "num_heads": 6,
    "d_kv": 64,
    "d_model": 512,
}
GEMMA_4 = {
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "global_head_dim": 512,
    "num_global_key_value_heads": 2,
    "hidden_size": 2560,
    "sliding_window": 512,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
    "num_kv_shared_layers": 1,
}


@pytest.mark.parametrize(
    ("config", "numbers"),
    [
        (LLAMA_3_8B, 32 * 8 * 128 * 2),
        (QWEN_2_7B, 28 * 4 * 128 * 2),
        (GEMMA_3_4B, 34 * 4 * 256 * 2),
        (DEEPSEEK_V3, 61 * 576),
        (FALCON_7B, 32 * 64 * 2),
        (FALCON_40B, 60 * 8 * 64 * 2),
        (STARCODER, 40 * 128 * 2),
        (MPT_7B, 32 * 4096 * 2),
        (CHATGLM_6B, 28 * 2 * 128 * 2),
        (FLAN_T5_SMALL, 8 * 6 * 64 * 2 * 2),
        (GEMMA_4, 2 * 4 * 256 * 2),
        ({"model_type": "mamba", "num_hidden_layers": 24, "hidden_size": 768}, 0),
    ],
)
def test_numbers_kept_of_a_token(config: dict[str, Any], numbers: int) -> None:
    assert kept(shape_of_config(config)) == numbers


@pytest.mark.parametrize(
    ("config", "windows"),
    [
        (QWEN_2_7B, {0: 28}),
        (GEMMA_3_4B, {1024: 29, 0: 5}),
        (LLAMA_3_8B | {"sliding_window": 4096}, {4096: 32}),
        (LLAMA_3_8B | {"sliding_window": 128, "model_type": "gpt_oss"}, {128: 16, 0: 16}),
        (GEMMA_4, {512: 2}),
        (LLAMA_3_8B | {"full_attention_interval": 4}, {0: 8}),
    ],
)
def test_layers_by_their_window(config: dict[str, Any], windows: dict[int, int]) -> None:
    caches = shape_of_config(config).caches
    assert {each.window: each.layers for each in caches} == windows


def test_recurrent_layers_keep_a_state() -> None:
    kinds = ["linear_attention", "full_attention"] * 2
    shape = shape_of_config(
        LLAMA_3_8B
        | {"num_hidden_layers": 4, "layer_types": kinds}
        | {"linear_num_value_heads": 32, "linear_num_key_heads": 16}
        | {"linear_value_head_dim": 128, "linear_key_head_dim": 128, "linear_conv_kernel_dim": 4}
    )
    assert shape.caches == (Cache(layers=2, numbers=2048),)
    assert shape.state == 2 * (32 * 128 * 128 + 4 * (2 * 16 * 128 + 32 * 128))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
KEYS = (*LLAMA_3_8B, *GEMMA_4, *FALCON_7B, *DEEPSEEK_V3, *FLAN_T5_SMALL, "text_config")


@given(st.dictionaries(st.sampled_from(KEYS), JSON))
@settings(max_examples=200, deadline=None)
def test_any_configuration_is_read(config: dict[str, Any]) -> None:
    shape = shape_of_config(config)
    assert 0 <= shape.layers <= 4096
    assert all(0 < each.layers <= 4096 and each.numbers > 0 for each in shape.caches)


def gguf_facts(tmp_path: Path, **changes: tuple[int, object]) -> ModelFacts:
    entries: Metadata = right_metadata()
    entries |= {f"llama.{key.replace('__', '.')}": value for key, value in changes.items()}
    path = tmp_path / "m.gguf"
    path.write_bytes(build(entries).content)
    facts = facts_of(LocalModel(name="m", path=str(path), format="gguf"))
    if facts is None:
        raise TypeError("a GGUF file has facts")
    return facts


def test_a_gguf_file_with_heads_by_layer(tmp_path: Path) -> None:
    facts = gguf_facts(tmp_path)
    size = (tmp_path / "m.gguf").stat().st_size
    assert (facts.weight_bytes, facts.context_length, facts.shape.vocab_size) == (size, 512, 7)
    assert kept(facts.shape) == (2 + 1) * 8 * 2
    assert facts.loaded_bytes(4) == size


@pytest.mark.parametrize(
    ("changes", "caches"),
    [
        (
            {"attention__key_length": (UINT32, 6), "attention__value_length": (UINT32, 4)},
            {(2 * 10, 0): 1, (1 * 10, 0): 1},
        ),
        (
            {
                "attention__sliding_window": (UINT32, 64),
                "attention__sliding_window_pattern": (ARRAY, (BOOL, [True, False])),
            },
            {(2 * 16, 64): 1, (1 * 16, 0): 1},
        ),
        (
            {
                "attention__sliding_window": (UINT32, 64),
                "attention__sliding_window_pattern": (UINT32, 2),
            },
            {(2 * 16, 64): 1, (1 * 16, 0): 1},
        ),
        ({"attention__sliding_window": (UINT32, 64)}, {(2 * 16, 0): 1, (1 * 16, 0): 1}),
        (
            {"attention__key_length_mla": (UINT32, 192), "attention__key_length": (UINT32, 576)},
            {(576, 0): 2},
        ),
        ({"attention__head_count_kv": (UINT32, 0)}, {}),
        ({"attention__shared_kv_layers": (UINT32, 1)}, {(2 * 16, 0): 1}),
        ({"full_attention_interval": (UINT32, 2)}, {(1 * 16, 0): 1}),
    ],
)
def test_caches_of_gguf_files(
    tmp_path: Path, changes: dict[str, tuple[int, object]], caches: dict[tuple[int, int], int]
) -> None:
    found = gguf_facts(tmp_path, **changes).shape.caches
    assert {(each.numbers, each.window): each.layers for each in found} == caches


def test_a_gguf_file_of_recurrent_layers(tmp_path: Path) -> None:
    sizes = {"inner_size": 64, "state_size": 16, "conv_kernel": 4}
    facts = gguf_facts(tmp_path, **{f"ssm__{key}": (UINT32, n) for key, n in sizes.items()})
    assert facts.shape.state == 2 * 64 * (16 + 4)


def test_weights_change_with_their_type_unless_quantized(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, LLAMA_3_8B | {"torch_dtype": "bfloat16"})
    content = safetensors({"a": ("BF16", (10,)), "b": ("I8", (7,)), "c": ("F32", (5,))})
    (tmp_path / "model.safetensors").write_bytes(content)
    facts = facts_of(LocalModel(name="m", path=folder, format="safetensors"))
    assert facts is not None
    assert facts.weights == {"BF16": 20, "I8": 7, "F32": 20}
    assert facts.loaded_bytes(2) == 20 + 7 + 10
    assert facts.loaded_bytes(4) == 40 + 7 + 20
    assert facts.dtype == "bfloat16"


def test_a_folder_that_needs_code_is_measured_without_running_it(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, {"auto_map": {"AutoModel": "modeling_x.M"}})
    (tmp_path / "modeling_x.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')")
    assert facts_of(LocalModel(name="m", path=folder, format="safetensors")) is not None
    assert not (tmp_path / "canary").exists()


def test_a_script_has_no_facts(tmp_path: Path) -> None:
    assert facts_of(LocalModel(name="m", path=str(tmp_path), format="script")) is None


def test_a_folder_without_a_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"config\.json does not exist"):
        facts_of(LocalModel(name="m", path=str(tmp_path), format="safetensors"))
