"""Tiny random checkpoints, each made from its architecture's own config class in transformers.

Two layers, a hidden size of 64, heads of 32 (the least that vLLM's attention on a CPU takes) and a
vocabulary of a few hundred tokens, of which only those of printable ASCII are ever likely. The same
architecture and seed give the same files.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from openllm.models.families import find

CONTROLS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>")
PAIRS = [(one, other) for one in "etaoinshr " for other in "etaoinshrdlu"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NEAR = 2.5e-5
"""Of the largest logit: two that are less apart are a near tie."""


@dataclass(frozen=True)
class Recipe:
    """How one architecture is made small.

    Attributes:
        model_type: Name of its config class in transformers.
        config: What differs from that class's defaults.
        tokenizer: "bytes": byte-level BPE; "pieces": SentencePiece BPE; "unigram": as T5's.
        seed: Seed of the weights; another one where answers hang on a near tie.
    """

    model_type: str
    config: dict[str, Any] = field(default_factory=dict)
    tokenizer: Literal["bytes", "pieces", "unigram"] = "bytes"
    seed: int = 0


_LAYERS: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 512,
}
_GROUPED = _LAYERS | {"num_key_value_heads": 1}
_LLAMA = _GROUPED | {"head_dim": 32}
_GPT: dict[str, Any] = {"n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": 512}
_FALCON = {key: value for key, value in _LAYERS.items() if key != "intermediate_size"}
_T5: dict[str, Any] = {
    "d_model": 64,
    "d_kv": 32,
    "d_ff": 128,
    "num_layers": 2,
    "num_heads": 2,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
}
# Shorter than the prompts of the tests, so that it matters.
_WINDOW = {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]}
_LOCAL_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
_ONE_EXPERT = {"num_local_experts": 4, "num_experts_per_tok": 1}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
_MLA = _LAYERS | {
    "num_key_value_heads": 2,
    "moe_intermediate_size": 32,
    "q_lora_rank": None,
    # The sizes that vLLM's kernels are made for.
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 128,
    "v_head_dim": 128,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
}
_LINEAR = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
}
_GEMMA2 = _LLAMA | _WINDOW | {"query_pre_attn_scalar": 32}
_GEMMA4 = (
    _LLAMA
    | _WINDOW
    | {
        "global_head_dim": 64,
        "hidden_size_per_layer_input": 16,
        "vocab_size_per_layer_input": 480,
    }
)
_VISION = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "image_size": 28,
    "patch_size": 14,
}
_SSM = {"mamba_n_heads": 4, "mamba_d_head": 32, "mamba_d_ssm": 128, "mamba_d_state": 16}

RECIPES: dict[str, Recipe] = {
    # The families of the documents. After "/" comes a shape of the same architecture.
    "FalconForCausalLM": Recipe(
        "falcon", _FALCON | {"num_kv_heads": 1, "new_decoder_architecture": True}
    ),
    "FalconForCausalLM/7b": Recipe("falcon", _FALCON),
    "FalconForCausalLM/alibi": Recipe(
        "falcon",
        _FALCON | {"alibi": True, "parallel_attn": False, "multi_query": False, "bias": True},
    ),
    "T5ForConditionalGeneration": Recipe("t5", _T5, "unigram"),
    "MT5ForConditionalGeneration": Recipe("mt5", _T5, "unigram"),
    "GPTNeoXForCausalLM": Recipe("gpt_neox", _LAYERS),
    "LlamaForCausalLM": Recipe("llama", _LLAMA, "pieces"),
    "LLaMAForCausalLM": Recipe("llama", _LLAMA, "pieces"),
    "MistralForCausalLM": Recipe("mistral", _LLAMA | {"sliding_window": 16}, "pieces"),
    "Ministral3ForCausalLM": Recipe("ministral3", _LLAMA),
    "MixtralForCausalLM": Recipe("mixtral", _LLAMA | _LOCAL_EXPERTS, "pieces"),
    "MPTForCausalLM": Recipe("mpt", {"d_model": 64, "n_heads": 2, "n_layers": 2}),
    "MptForCausalLM": Recipe("mpt", {"d_model": 64, "n_heads": 2, "n_layers": 2}),
    "OPTForCausalLM": Recipe("opt", _LAYERS | {"word_embed_proj_dim": 64, "ffn_dim": 128}),
    "PhiForCausalLM": Recipe("phi", _LAYERS),
    "StableLmForCausalLM": Recipe("stablelm", _GROUPED),
    "GPTBigCodeForCausalLM": Recipe("gpt_bigcode", _GPT),
    "BloomForCausalLM": Recipe("bloom", {"hidden_size": 64, "n_layer": 2, "n_head": 2}),
    # Made as a Glm model and written as a ChatGLM one.
    "ChatGLMModel": Recipe("glm", _LLAMA, seed=1),
    # Those of today.
    "ApertusForCausalLM": Recipe("apertus", _LLAMA),
    "CohereForCausalLM": Recipe("cohere", _GROUPED | {"logit_scale": 1.0}),
    "Cohere2ForCausalLM": Recipe("cohere2", _LLAMA | _WINDOW | {"logit_scale": 1.0}),
    "DeepseekV2ForCausalLM": Recipe("deepseek_v2", _MLA),
    "DeepseekV3ForCausalLM": Recipe("deepseek_v3", _MLA | {"topk_method": "noaux_tc"}),
    "Ernie4_5ForCausalLM": Recipe("ernie4_5", _LLAMA),
    "Exaone4ForCausalLM": Recipe("exaone4", _LLAMA | _WINDOW),
    "FalconH1ForCausalLM": Recipe("falcon_h1", _LLAMA | _SSM),
    "GemmaForCausalLM": Recipe("gemma", _LLAMA, "pieces"),
    "Gemma2ForCausalLM": Recipe("gemma2", _GEMMA2, "pieces"),
    "Gemma3ForCausalLM": Recipe("gemma3_text", _GEMMA2, "pieces"),
    "Gemma3ForConditionalGeneration": Recipe(
        "gemma3",
        {"text_config": _GEMMA2, "vision_config": _VISION, "mm_tokens_per_image": 4},
        "pieces",
        seed=1,
    ),
    "Gemma4ForCausalLM": Recipe("gemma4_text", _GEMMA4, "pieces"),
    "Gemma4ForCausalLM/shared": Recipe(
        "gemma4_text",
        _GEMMA4
        | {
            "num_hidden_layers": 4,
            "num_kv_shared_layers": 2,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
        },
        "pieces",
    ),
    "Gemma4ForConditionalGeneration": Recipe(
        "gemma4",
        {"text_config": _GEMMA4, "vision_config": _VISION, "audio_config": None},
        "pieces",
    ),
    "GlmForCausalLM": Recipe("glm", _LLAMA, seed=1),
    "Glm4ForCausalLM": Recipe("glm4", _LLAMA),
    "Glm4MoeForCausalLM": Recipe("glm4_moe", _LLAMA | _EXPERTS | {"n_routed_experts": 4}),
    "GPT2LMHeadModel": Recipe("gpt2", _GPT),
    "GPTJForCausalLM": Recipe("gptj", _GPT | {"rotary_dim": 16}),
    "GptOssForCausalLM": Recipe("gpt_oss", _LLAMA | _WINDOW | _LOCAL_EXPERTS),
    "GraniteForCausalLM": Recipe("granite", _LLAMA),
    "GraniteMoeForCausalLM": Recipe("granitemoe", _LLAMA | _LOCAL_EXPERTS),
    "GraniteMoeHybridForCausalLM": Recipe(
        "granitemoehybrid",
        _LLAMA | _LOCAL_EXPERTS | _SSM | {"layer_types": ["mamba", "attention"]},
    ),
    "HunYuanDenseV1ForCausalLM": Recipe("hunyuan_v1_dense", _LLAMA),
    "Lfm2ForCausalLM": Recipe(
        "lfm2",
        _GROUPED
        | {"layer_types": ["conv", "full_attention"], "conv_dim": 64, "block_dim": 64}
        | {"block_ff_dim": 128, "block_auto_adjust_ff_dim": False},
    ),
    "Llama4ForCausalLM": Recipe("llama4_text", _LLAMA | _ONE_EXPERT),
    "Llama4ForCausalLM/chunks": Recipe(
        "llama4_text", _LLAMA | _ONE_EXPERT | {"attention_chunk_size": 16}
    ),
    "NemotronForCausalLM": Recipe("nemotron", _LLAMA),
    "OlmoForCausalLM": Recipe("olmo", _GROUPED),
    "Olmo2ForCausalLM": Recipe("olmo2", _GROUPED),
    "Olmo3ForCausalLM": Recipe("olmo3", _GROUPED | _WINDOW),
    "OlmoeForCausalLM": Recipe("olmoe", _GROUPED | _EXPERTS),
    "Phi3ForCausalLM": Recipe("phi3", _GROUPED),
    "Qwen2ForCausalLM": Recipe("qwen2", _GROUPED),
    "Qwen2MoeForCausalLM": Recipe(
        "qwen2_moe", _GROUPED | _EXPERTS | {"shared_expert_intermediate_size": 64}
    ),
    "Qwen3ForCausalLM": Recipe("qwen3", _LLAMA),
    "Qwen3MoeForCausalLM": Recipe("qwen3_moe", _LLAMA | _EXPERTS),
    "Qwen3NextForCausalLM": Recipe(
        "qwen3_next", _LLAMA | _EXPERTS | _LINEAR | {"shared_expert_intermediate_size": 64}
    ),
    "Qwen3_5ForCausalLM": Recipe("qwen3_5_text", _LLAMA | _LINEAR),
    "SeedOssForCausalLM": Recipe("seed_oss", _LLAMA),
    "SmolLM3ForCausalLM": Recipe("smollm3", _LLAMA | {"no_rope_layers": [1, 0]}),
    "Starcoder2ForCausalLM": Recipe("starcoder2", _GROUPED | {"sliding_window": None}),
}


def make_checkpoint(what: str, folder: Path) -> Path:
    """Write a checkpoint into `folder`, as float32 safetensors, in well under a second.

    Args:
        what: A key of `RECIPES` or the name of a family.
        folder: Made if it is not there.

    Returns:
        The folder.
    """
    import torch

    family = find(what)
    what = family.architecture if family else what
    recipe = RECIPES[what]
    tokenizer = make_tokenizer(recipe.tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = _model(recipe, tokenizer)
    _fill(model, recipe.seed, _unspeakable(tokenizer))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    changes: dict[str, Any] = {"architectures": [what.partition("/")[0]]}
    if what == "ChatGLMModel":
        _write_chatglm(model, folder)
    if model.config.is_encoder_decoder:
        changes["tie_word_embeddings"] = False  # As Flan-T5 has it, and transformers drops it.
    _edit(folder / "config.json", changes)
    return folder


def greedy_alone(path: Path, prompts: Sequence[Sequence[int]], new_tokens: int) -> list[list[int]]:
    """Return what plain transformers generates greedily for each prompt alone, in float32.

    Its plainest attention is taken: others leave out what they cannot do, such as Gemma 2's caps.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    torch.set_num_threads(1)  # Threads that wait for each other by spinning take long when busy.
    config = AutoConfig.from_pretrained(path)
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    model = auto.from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval()
    found = []
    for prompt in prompts:
        made = model.generate(
            torch.tensor([prompt]),
            max_new_tokens=new_tokens,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
        _check_near_ties(torch.cat(made.logits).float())
        skipped = 1 if config.is_encoder_decoder else len(prompt)
        found.append(made.sequences[0, skipped:].tolist())
    return found


def _check_near_ties(logits: Any) -> None:
    """Raise where the two likeliest tokens are so near that rounding may turn them round.

    Logits [tokens, vocabulary] of the same text differ by about a millionth of the largest one when
    it is read in other pieces, in other company or by another library.
    """
    likeliest = logits.topk(2).values
    nearest = (likeliest[:, 0] - likeliest[:, 1]).min()
    if nearest < NEAR * logits.abs().max():
        raise ValueError(f"two tokens are only {nearest:.1e} apart; give it another seed")


def _model(recipe: Recipe, tokenizer: Any) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    ends = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if recipe.tokenizer == "unigram":
        ends["decoder_start_token_id"] = tokenizer.pad_token_id
    common = ends | {"vocab_size": len(tokenizer)}
    changes = common | recipe.config
    if "text_config" in changes:
        changes["text_config"] = common | changes["text_config"]
    config = AutoConfig.for_model(recipe.model_type, **changes)
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    model = auto.from_config(config, dtype=torch.float32)
    if config.is_encoder_decoder:
        head = model.get_output_embeddings()
        head.weight = torch.nn.Parameter(head.weight.detach().clone())
    model.generation_config.update(do_sample=False, **ends)
    return model


def _fill(model: Any, seed: int, silent: list[int]) -> None:
    """Draw all weights, so that what a token says depends on all tokens before it."""
    import torch

    random = torch.Generator().manual_seed(seed)
    table, head = model.get_input_embeddings().weight, model.get_output_embeddings()
    # Where the head is the embedding, a token would say itself unless the layers say more.
    tied = head.weight is table
    gain, spread = (4.0, 0.03) if tied else (1.5, 0.5)
    with torch.no_grad():
        for name, values in model.named_parameters():
            if values.dim() > 1:
                values.normal_(0, gain / math.sqrt(values.shape[-1]), generator=random)
            elif "bias" in name:
                values.normal_(0, 0.1, generator=random)
            elif ".layers." not in name:
                last_norm = values
        for module in model.modules():
            if isinstance(module, torch.nn.Embedding):
                module.weight.normal_(0, spread, generator=random)
        if tied:
            last_norm += 20
        else:
            head.weight.normal_(0, spread, generator=random)
        head.weight[silent] = 0
        if getattr(head, "bias", None) is not None:
            head.bias.zero_()


# ChatGLM's names of a Glm model's tensors; those that get the same name are joined.
_CHATGLM = (
    ("model.layers.", "transformer.encoder.layers."),
    (r"self_attn.[qkv]_proj", "self_attention.query_key_value"),
    ("self_attn.o_proj", "self_attention.dense"),
    ("mlp.gate_up_proj", "mlp.dense_h_to_4h"),
    ("mlp.down_proj", "mlp.dense_4h_to_h"),
    ("model.norm", "transformer.encoder.final_layernorm"),
    ("model.embed_tokens", "transformer.embedding.word_embeddings"),
    ("lm_head", "transformer.output_layer"),
)


def _write_chatglm(model: Any, folder: Path) -> None:
    """Write a Glm model as ChatGLM2, of which vLLM has a class and transformers has none."""
    import torch
    from safetensors.torch import save_file

    parts: dict[str, list[Any]] = {}
    for name, values in model.state_dict().items():
        for theirs, ours in _CHATGLM:
            name = re.sub(theirs, ours, name)
        parts.setdefault(name, []).append(values)
    tensors = {name: torch.cat(values) for name, values in parts.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = model.config
    made = {
        "architectures": ["ChatGLMModel"],
        "model_type": "chatglm",
        "num_layers": config.num_hidden_layers,
        "padded_vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "ffn_hidden_size": config.intermediate_size,
        "kv_channels": config.head_dim,
        "num_attention_heads": config.num_attention_heads,
        "seq_length": config.max_position_embeddings,
        "layernorm_epsilon": config.rms_norm_eps,
        "original_rope": True,
        "tie_word_embeddings": False,
        "add_qkv_bias": True,
        "multi_query_attention": True,
        "multi_query_group_num": config.num_key_value_heads,
        "eos_token_id": config.eos_token_id,
        "pad_token_id": config.pad_token_id,
        "dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(made, indent=2))


def _edit(path: Path, changes: dict[str, Any]) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes, indent=2))


def _unspeakable(tokenizer: Any) -> list[int]:
    """Return the ids whose text is not printable ASCII."""
    found = []
    for token_id, piece in enumerate(tokenizer.convert_ids_to_tokens(range(len(tokenizer)))):
        text = tokenizer.decode([token_id], skip_special_tokens=True)
        spoken = text.isascii() and text.isprintable() and (text or piece == "▁")
        if not spoken or piece.startswith("<0x"):
            found.append(token_id)
    return found


def make_tokenizer(kind: str) -> Any:
    """Return a tokenizer of transformers, built from nothing; `kind` as in `Recipe`."""
    from transformers import PreTrainedTokenizerFast

    builders = {"bytes": _byte_level, "pieces": _pieces, "unigram": _unigram}
    return PreTrainedTokenizerFast(**builders[kind](), chat_template=TEMPLATE)


def _byte_level() -> dict[str, Any]:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = [(one.replace(" ", "Ġ"), other) for one, other in PAIRS]
    tokens = [*alphabet, *("".join(pair) for pair in pairs)]
    made = Tokenizer(models.BPE({token: at for at, token in enumerate(tokens)}, pairs))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(each, special=True) for each in CONTROLS])
    end, *_, pad = CONTROLS
    return {"tokenizer_object": made, "bos_token": end, "eos_token": end, "pad_token": pad}


def _pieces() -> dict[str, Any]:
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

    controls = ["<unk>", "<s>", "</s>", "<pad>"]
    hexes = [f"<0x{value:02X}>" for value in range(256)]
    letters = ["▁", *(chr(value) for value in range(33, 127))]
    pairs = [(one.replace(" ", "▁"), other) for one, other in PAIRS]
    tokens = [*controls, *hexes, *letters, *("".join(pair) for pair in pairs)]
    vocabulary = {token: at for at, token in enumerate(tokens)}
    made = Tokenizer(
        models.BPE(vocabulary, pairs, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    marks = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    made.normalizer = normalizers.Sequence(marks)
    made.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    made.add_special_tokens([AddedToken(each, special=True) for each in controls])
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    return {"tokenizer_object": made} | names


def _unigram() -> dict[str, Any]:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

    controls = ["<pad>", "</s>", "<unk>"]
    letters = ["▁", *(chr(value) for value in range(33, 127))]
    words = ["".join(pair).replace(" ", "▁") for pair in PAIRS]
    scores = [(each, 0.0) for each in controls]
    scores += [(each, -6.0) for each in letters] + [(each, -4.0) for each in words]
    made = Tokenizer(models.Unigram(scores, unk_id=2))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    made.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    made.add_special_tokens([AddedToken(each, special=True) for each in controls])
    names = {"unk_token": "<unk>", "eos_token": "</s>", "pad_token": "<pad>"}
    return {"tokenizer_object": made} | names
