"""Settings of one served model: how it is loaded, and what a request gets that says nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from openllm.config.marks import Alias, ByModel, ByName

CONCURRENCY: Mapping[str, int] = {"llamacpp": 8, "torch": 32, "vllm": 256}
"""Sequences generated at once where the option is left out, by engine."""
FREE_SHARE: Mapping[str, float] = {"llamacpp": 0.5}
"""Of the memory that is free, what a model may fill with the context that its engine chooses."""
PREFILL_CHUNK: Mapping[str, int] = {"torch": 512, "vllm": 320}
"""Prompt tokens read at once where the option is left out, by engine; vllm's is for CPUs alone."""

_DEVICE = re.compile(r"cpu|mps|(?:cuda|gpu)(?::\d{1,3})?")


def _device(text: str) -> str:
    """Return the device in PyTorch's words, where "gpu" is "cuda"."""
    if _DEVICE.fullmatch(text) is None:
        raise ValueError("it is no device; give cpu, gpu, gpu:N, cuda, cuda:N or mps")
    return text.replace("gpu", "cuda")


def shown_device(device: str) -> str:
    """Return a device as messages name it: in both spellings, as that which was typed is gone."""
    return f"{device.replace('cuda', 'gpu')} ({device})" if "cuda" in device else device


def _never_pickled(value: object) -> object:
    """Refuse the formats of weights that run code when they are opened."""
    if value in ("pt", "npcache"):
        raise ValueError(
            "pickled weights can run code when they are opened, so they never are; use auto, and"
            " convert weights that you trust with save_pretrained(folder)"
        )
    return value


def _dtype(name: str) -> str:
    return {"half": "float16", "float": "float32"}.get(name, name)


Penalty = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]


class LoadOptions(BaseModel):
    """How the engine loads the model. Unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    backend: str | None = Field(
        None, description="Engine: llamacpp, torch or vllm [default: by the model's format]."
    )
    context_length: Annotated[int | None, Alias("max_model_len")] = Field(
        None, ge=1, description="Prompt plus output tokens of one sequence [default: the model's]."
    )
    max_concurrency: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="Sequences generated at once; more wait"
        f" [default: {', '.join(f'{each} on {engine}' for engine, each in CONCURRENCY.items())}].",
    )
    threads: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="CPU threads of the engine [default: physical cores, or what a container has].",
    )
    gpu_layers: int | None = Field(
        None, ge=0, description="Layers placed on the GPU [default: as many as fit]."
    )
    embeddings: bool = Field(True, description="Serve embeddings from this model as well.")
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16", "half", "float"], AfterValidator(_dtype)
    ] = Field(
        "auto",
        description="Type of the weights on torch and vllm; auto: as the model's files; half is"
        " float16, float is float32.",
    )
    device: Annotated[Annotated[str, AfterValidator(_device)] | None, ByModel()] = Field(
        None,
        description="cpu, gpu, gpu:N (cuda is the same) or mps, of all models or as MODEL:DEVICE of"
        " one; a list, and may be repeated [default: the fastest there is].",
    )
    kv_cache_tokens: int | None = Field(
        None, ge=1, description="Tokens that fit the KV cache [default: as memory allows]."
    )
    prefill_chunk: int | None = Field(
        None,
        ge=1,
        description="Prompt tokens read between two steps of the running requests"
        f" [default: {PREFILL_CHUNK['torch']} on torch, on vllm {PREFILL_CHUNK['vllm']} on a CPU"
        " and vLLM's own elsewhere].",
    )
    gpu_memory_utilization: float | None = Field(
        None,
        ge=0.0,
        le=1.0,
        allow_inf_nan=False,
        description="Share of the device's memory that vllm may take, weights and KV cache together"
        " [default: vLLM's own].",
    )
    enforce_eager: bool = Field(
        False, description="Run without compiled graphs: starts sooner, runs slower."
    )
    load_format: Annotated[
        Literal["auto", "safetensors", "dummy"], BeforeValidator(_never_pickled)
    ] = Field(
        "auto",
        description="How torch and vllm get the weights; auto: from safetensors files; dummy:"
        " random ones made from config.json alone, for trials of speed and memory.",
    )
    tokenizer: str | None = Field(
        None,
        min_length=1,
        description="Tokenizer and chat template for torch and vllm, a hub id or a folder; only"
        " files beside the weights are downloaded [default: the model's own].",
    )
    tokenizer_revision: str | None = Field(
        None,
        min_length=1,
        description="Branch, tag or commit of the tokenizer's repository, which is the model's own"
        " where no tokenizer is given.",
    )
    tokenizer_mode: Literal["auto", "slow"] = Field(
        "auto",
        description="slow: SentencePiece in the place of the library tokenizers, on torch, for"
        " models that have a tokenizer.model.",
    )
    trust_remote_code: bool = Field(
        False, description="Run Python code that comes in the model's folder."
    )
    lora: Annotated[tuple[str, ...], ByName()] = Field(
        (),
        description="NAME=PATH of a LoRA adapter, which requests choose by NAME as the model, or"
        " PATH of one that is always on; for torch and vllm a folder of peft or a hub id, for"
        " llamacpp a GGUF file, also as org/name:file.gguf or a URL; may be repeated.",
    )
    engine_arg: tuple[str, ...] = Field(
        (), description="NAME=VALUE handed to vLLM's own engine arguments; may be repeated."
    )

    @property
    def other_tokenizer(self) -> bool:
        """Whether the tokenizer is to be another than the one beside the model's weights."""
        return self.tokenizer is not None or self.tokenizer_revision is not None


class RequestDefaults(BaseModel):
    """Sampling values for requests that leave them out; the ranges are those of the native API."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    temperature: float | None = Field(
        None, ge=0.0, le=1.0, allow_inf_nan=False, description="0 is deterministic, 1 unscaled."
    )
    top_k: int | None = Field(None, ge=0, description="Sample from the k likeliest tokens; 0: all.")
    top_p: float | None = Field(
        None, ge=0.0, le=1.0, allow_inf_nan=False, description="Probability mass sampled from."
    )
    stop_sequence: Annotated[tuple[str, ...], Alias("stop")] = Field(
        (), description="Text that ends generation; may be repeated."
    )
    frequency_penalty: Annotated[Penalty | None, Alias("freq_penalty")] = Field(
        None, description="Lowers a token by its count in prompt and output."
    )
    presence_penalty: Penalty | None = Field(
        None, description="Lowers every token that has appeared."
    )
    max_tokens: Annotated[int | None, Alias("max_new_tokens")] = Field(
        None, ge=1, description="Most new tokens of a reply."
    )
    seed: int | None = Field(None, ge=0, description="Makes sampling repeatable.")
    prompt: str | None = Field(
        None, description="Text, or a file with the text, put before every conversation."
    )


class ModelConfig(BaseModel):
    """All settings of one served model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    load: LoadOptions = LoadOptions()
    defaults: RequestDefaults = RequestDefaults()
