"""Makes a model of the benchmarks as a transformers folder: Llama shape, random weights, bfloat16.

    python -m benchmarks.make_checkpoint [FOLDER]

The weights and the tokenizer are those of `benchmarks.make_model`, so the same model can be served
from a GGUF file and from this folder. The rows of the control tokens are small: greedily, no text
ends before its `max_tokens`. Needs torch and safetensors.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from benchmarks.make_model import (
    BUILD,
    CHAT_TEMPLATE,
    CONTROLS,
    SHAPE,
    merges,
    random_tensor,
    vocabulary,
)
from tools.llama_gguf import LlamaShape

FOLDER = BUILD / "benchmark-135m"
END, START, TURN_END = CONTROLS


def make_checkpoint(folder: Path = FOLDER, shape: LlamaShape = SHAPE) -> Path:
    """Return `folder`, written first unless it is there; its size is two bytes a parameter."""
    if not folder.exists():
        partial = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for name, content in _documents(shape).items():
            (partial / name).write_text(json.dumps(content, indent=1), encoding="utf-8")
        _write_weights(partial / "model.safetensors", shape)
        partial.replace(folder)
    return folder


def _write_weights(path: Path, shape: LlamaShape) -> None:
    import torch
    from safetensors.torch import save_file

    tensors = {
        name: torch.from_numpy(random_tensor(name, shape)).to(torch.bfloat16)
        for name in shape.tensor_shapes()
    }
    save_file(tensors, path, metadata={"format": "pt"})


def _documents(shape: LlamaShape) -> dict[str, Any]:
    ids = vocabulary()
    ends = {"bos_token_id": ids[END], "eos_token_id": ids[TURN_END], "pad_token_id": ids[END]}
    return {
        "config.json": config(shape) | ends,
        "generation_config.json": ends,
        "tokenizer.json": tokenizer_json(),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": END,
            "eos_token": TURN_END,
            "pad_token": END,
            "model_max_length": shape.context_length,
            "clean_up_tokenization_spaces": False,
            "chat_template": CHAT_TEMPLATE,
        },
    }


def config(shape: LlamaShape) -> dict[str, Any]:
    """Return the `config.json`; older transformers read `torch_dtype` and `rope_theta`."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.hidden_size,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "intermediate_size": shape.intermediate_size,
        "hidden_act": "silu",
        "max_position_embeddings": shape.context_length,
        "rms_norm_eps": shape.norm_eps,
        "tie_word_embeddings": shape.tied_embeddings,
        "rope_theta": shape.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": shape.rope_theta},
        "dtype": "bfloat16",
        "torch_dtype": "bfloat16",
    }


def tokenizer_json() -> dict[str, Any]:
    """Return the byte-level BPE of `benchmarks.make_model` in the form of `tokenizers`."""
    ids = vocabulary()
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": ids[text], "content": text, **flags, "special": True} for text in CONTROLS
        ],
        "normalizer": None,
        "pre_tokenizer": {**level, "use_regex": True},
        "post_processor": None,
        "decoder": {**level, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": ids,
            "merges": [" ".join(pair) for pair in merges()],
        },
    }


if __name__ == "__main__":
    print(make_checkpoint(Path(sys.argv[1]) if sys.argv[1:] else FOLDER))
