"""Writes a Llama model with its tokenizer as a GGUF file, with numpy and gguf only.

Tensors are asked for by their transformers names, so the source may be a checkpoint, a
safetensors file or a random generator.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
TensorSource = Callable[[str], Array]
Quantization = Literal["Q8_0", "F16", "F32"]

_TYPES = {
    "Q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
    "F16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    "F32": (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
}
_LAYER = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


@dataclass(frozen=True)
class LlamaShape:
    """Sizes of a Llama model; ``head_size`` 0 means hidden size divided by heads."""

    vocab_size: int
    hidden_size: int
    layers: int
    heads: int
    kv_heads: int
    intermediate_size: int
    context_length: int
    tied_embeddings: bool = True
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5
    head_size: int = 0

    @property
    def head_dim(self) -> int:
        """Return the size of one attention head."""
        return self.head_size or self.hidden_size // self.heads

    @classmethod
    def from_config_json(cls, source: Path | Mapping[str, Any]) -> LlamaShape:
        """Read a transformers ``config.json``; raises ValueError for another architecture."""
        config = _load_json(source)
        if config.get("model_type") != "llama":
            raise ValueError(f"not a llama config: model_type {config.get('model_type')!r}")
        rope = config.get("rope_parameters") or {}
        if rope.get("rope_type", "default") != "default" or config.get("rope_scaling"):
            raise ValueError("scaled rotary positions are not supported")
        heads = int(config["num_attention_heads"])
        return cls(
            vocab_size=int(config["vocab_size"]),
            hidden_size=int(config["hidden_size"]),
            layers=int(config["num_hidden_layers"]),
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            intermediate_size=int(config["intermediate_size"]),
            context_length=int(config["max_position_embeddings"]),
            tied_embeddings=bool(config.get("tie_word_embeddings", False)),
            rope_theta=float(rope.get("rope_theta") or config.get("rope_theta") or 10_000.0),
            norm_eps=float(config.get("rms_norm_eps", 1e-6)),
            head_size=int(config.get("head_dim") or 0),
        )

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return every transformers tensor name with its shape, in file order."""
        hidden, inner = self.hidden_size, self.intermediate_size
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        layer = {
            "input_layernorm": (hidden,),
            "self_attn.q_proj": (queries, hidden),
            "self_attn.k_proj": (keys, hidden),
            "self_attn.v_proj": (keys, hidden),
            "self_attn.o_proj": (hidden, queries),
            "post_attention_layernorm": (hidden,),
            "mlp.gate_proj": (inner, hidden),
            "mlp.up_proj": (inner, hidden),
            "mlp.down_proj": (hidden, inner),
        }
        shapes: dict[str, tuple[int, ...]] = {
            "model.embed_tokens.weight": (self.vocab_size, hidden)
        }
        for index in range(self.layers):
            for part, shape in layer.items():
                shapes[f"model.layers.{index}.{part}.weight"] = shape
        shapes["model.norm.weight"] = (hidden,)
        if not self.tied_embeddings:
            shapes["lm_head.weight"] = (self.vocab_size, hidden)
        return shapes

    def parameters(self) -> int:
        """Return the number of parameters."""
        return sum(int(np.prod(shape)) for shape in self.tensor_shapes().values())


@dataclass(frozen=True)
class Labels:
    """Descriptive metadata; empty entries are left out."""

    description: str = ""
    license: str = ""
    finetune: str = ""
    author: str = ""
    url: str = ""
    size_label: str = ""
    languages: tuple[str, ...] = ()


@dataclass(frozen=True)
class SpecialTokens:
    """Special tokens by their text; ``eos`` ends an answer and no BOS is added."""

    bos: str = "<|endoftext|>"
    eos: str = "<|im_end|>"
    pad: str = "<|endoftext|>"
    unknown: str = "<|endoftext|>"
    controls: tuple[str, ...] = field(
        default=("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>")
    )


def write_llama_gguf(
    path: Path,
    config: LlamaShape,
    tensor: TensorSource,
    tokenizer_json: Path | Mapping[str, Any],
    chat_template: str | None,
    quantization: Quantization = "Q8_0",
    name: str = "model",
    labels: Labels | None = None,
    special: SpecialTokens | None = None,
    pre_tokenizer: str = "smollm",
) -> None:
    """Write a GGUF file of the ``llama`` architecture.

    ``tensor`` returns the array of a transformers tensor name; its shape is checked and a
    mismatch raises ValueError. ``tokenizer_json`` is a byte-level BPE tokenizer of the
    tokenizers library; entries it lacks up to ``vocab_size`` are filled with unused tokens.
    Rows that Q8_0 cannot hold (width not a multiple of 32) stay in F16.
    """
    writer = gguf.GGUFWriter(path, "llama")
    try:
        _add_labels(writer, name, config, labels or Labels())
        _add_shape(writer, config, quantization)
        _add_tokenizer(
            writer, _load_json(tokenizer_json), config, special or SpecialTokens(), pre_tokenizer
        )
        if chat_template:
            writer.add_chat_template(chat_template)
        for target, array in _tensors(config, tensor):
            _add_tensor(writer, target, array, quantization)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def permute(weights: Array, heads: int) -> Array:
    """Reorder rows from the halves rotary layout to the interleaved one llama.cpp uses."""
    rows, columns = weights.shape
    halves = weights.reshape(heads, 2, rows // heads // 2, columns)
    return halves.swapaxes(1, 2).reshape(rows, columns)


def _load_json(source: Path | Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(source, Mapping):
        return source
    loaded: Mapping[str, Any] = json.loads(Path(source).read_text(encoding="utf-8"))
    return loaded


def _tensors(config: LlamaShape, tensor: TensorSource) -> Iterator[tuple[str, Array]]:
    for source, shape in config.tensor_shapes().items():
        array = np.asarray(tensor(source))
        if array.shape != shape:
            raise ValueError(f"{source} has shape {array.shape}, expected {shape}")
        array = array.astype(np.float32)
        if source.endswith("q_proj.weight"):
            array = permute(array, config.heads)
        elif source.endswith("k_proj.weight"):
            array = permute(array, config.kv_heads)
        yield target_name(source), array


def target_name(source: str) -> str:
    """Return the GGUF name of a transformers tensor name; raises KeyError when unknown."""
    fixed = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    }
    if source in fixed:
        return fixed[source]
    _, _, index, part = source.removesuffix(".weight").split(".", 3)
    return f"blk.{index}.{_LAYER[part]}.weight"


def _add_tensor(
    writer: gguf.GGUFWriter, name: str, array: Array, quantization: Quantization
) -> None:
    # llama.cpp keeps norms in F32: its kernels multiply by them directly.
    kind = _TYPES[quantization][0] if array.ndim > 1 else gguf.GGMLQuantizationType.F32
    if kind == gguf.GGMLQuantizationType.Q8_0 and array.shape[-1] % 32:
        kind = gguf.GGMLQuantizationType.F16
    writer.add_tensor(name, gguf.quants.quantize(array, kind), raw_dtype=kind)


def _add_labels(writer: gguf.GGUFWriter, name: str, config: LlamaShape, labels: Labels) -> None:
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(name)
    writer.add_basename(name)
    writer.add_size_label(labels.size_label or _size_label(config.parameters()))
    for text, add in (
        (labels.description, writer.add_description),
        (labels.license, writer.add_license),
        (labels.finetune, writer.add_finetune),
        (labels.author, writer.add_author),
        (labels.url, writer.add_url),
    ):
        if text:
            add(text)
    if labels.languages:
        writer.add_languages(list(labels.languages))


def _size_label(parameters: int) -> str:
    millions = parameters / 1e6
    if millions >= 1000:
        return f"{millions / 1000:.1f}B"
    return f"{millions:.1f}M" if millions < 10 else f"{millions:.0f}M"


def _add_shape(writer: gguf.GGUFWriter, config: LlamaShape, quantization: Quantization) -> None:
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(_TYPES[quantization][1])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def _add_tokenizer(
    writer: gguf.GGUFWriter,
    tokenizer: Mapping[str, Any],
    config: LlamaShape,
    special: SpecialTokens,
    pre_tokenizer: str,
) -> None:
    ids: dict[str, int] = dict(tokenizer["model"]["vocab"])
    added = {str(entry["content"]): int(entry["id"]) for entry in tokenizer["added_tokens"]}
    ids.update(added)
    if max(ids.values()) >= config.vocab_size:
        raise ValueError(f"tokenizer has an id beyond vocab_size {config.vocab_size}")
    texts = [f"[UNUSED{index}]" for index in range(config.vocab_size)]
    kinds = [int(gguf.TokenType.UNUSED)] * config.vocab_size
    for text, index in ids.items():
        texts[index] = text
        control = text in special.controls or text in added
        kinds[index] = int(gguf.TokenType.CONTROL if control else gguf.TokenType.NORMAL)
    merges = [
        merge if isinstance(merge, str) else " ".join(merge)
        for merge in tokenizer["model"]["merges"]
    ]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre_tokenizer)
    writer.add_token_list(texts)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(ids[special.bos])
    writer.add_eos_token_id(ids[special.eos])
    writer.add_pad_token_id(ids[special.pad])
    writer.add_unk_token_id(ids[special.unknown])
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
