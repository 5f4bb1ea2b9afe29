"""Writes a trained checkpoint as safetensors folder and GGUF file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file

from tools.llama_gguf import Labels, LlamaShape, Quantization, SpecialTokens, write_llama_gguf
from tools.train_demo.chat import CHAT_TEMPLATE, END_OF_TEXT, IM_END, PAD, SPECIAL_TOKENS
from tools.train_demo.model import Llama, Shape
from tools.train_demo.train import load

LABELS = Labels(
    description=(
        "The small model bundled with OpenLLM-Server, trained from scratch on text that the "
        "project generates itself. It answers questions about the server, counts, adds small "
        "numbers and names capitals."
    ),
    license="apache-2.0",
    finetune="chat",
    author="OpenLLM-Server",
    languages=("en",),
)
SPECIAL = SpecialTokens(
    bos=END_OF_TEXT, eos=IM_END, pad=PAD, unknown=END_OF_TEXT, controls=SPECIAL_TOKENS
)


def export(checkpoint: Path, tokenizer: Path, out: Path) -> None:
    """Write ``demo-q8_0.gguf`` and the ``safetensors`` folder into ``out``."""
    model, _ = load(checkpoint)
    write_folder(model, tokenizer, out / "safetensors")
    write_gguf(model, tokenizer, out / "demo-q8_0.gguf", "Q8_0")


def write_gguf(model: Llama, tokenizer: Path, path: Path, quantization: Quantization) -> None:
    """Write the GGUF file from the bfloat16-rounded weights, as in the safetensors file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = model.state_dict()

    def tensor(name: str) -> npt.NDArray[np.float32]:
        array: npt.NDArray[np.float32] = state[name].to(torch.bfloat16).float().numpy()
        return array

    shape = LlamaShape.from_config_json(config_json(model.shape))
    write_llama_gguf(
        path, shape, tensor, tokenizer, CHAT_TEMPLATE, quantization, "demo", LABELS, SPECIAL
    )


def write_folder(model: Llama, tokenizer: Path, folder: Path) -> None:
    """Write a folder that transformers loads with AutoModelForCausalLM and AutoTokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.to(torch.bfloat16) for name, value in model.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)
    shutil.copyfile(tokenizer, folder / "tokenizer.json")
    _write_json(folder / "config.json", config_json(model.shape))
    _write_json(folder / "generation_config.json", _generation())
    _write_json(folder / "tokenizer_config.json", _tokenizer_config(model.shape))


def config_json(shape: Shape) -> dict[str, Any]:
    """Return the content of ``config.json``."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": shape.vocab,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head,
        "max_position_embeddings": shape.context,
        "rope_theta": shape.theta,
        "rms_norm_eps": shape.eps,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "tie_word_embeddings": True,
        "use_cache": True,
        "dtype": "bfloat16",
        "torch_dtype": "bfloat16",
        "bos_token_id": SPECIAL_TOKENS.index(END_OF_TEXT),
        "eos_token_id": SPECIAL_TOKENS.index(IM_END),
        "pad_token_id": SPECIAL_TOKENS.index(PAD),
    }


def _generation() -> dict[str, Any]:
    return {
        "bos_token_id": SPECIAL_TOKENS.index(END_OF_TEXT),
        "eos_token_id": [SPECIAL_TOKENS.index(IM_END), SPECIAL_TOKENS.index(END_OF_TEXT)],
        "pad_token_id": SPECIAL_TOKENS.index(PAD),
        "do_sample": False,
        "max_new_tokens": 256,
    }


def _tokenizer_config(shape: Shape) -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": shape.context,
        "bos_token": END_OF_TEXT,
        "eos_token": IM_END,
        "pad_token": PAD,
        "unk_token": END_OF_TEXT,
        "add_bos_token": False,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
