"""Settings of one served model: how it is loaded, and what a request gets that says nothing."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Penalty = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]


class LoadOptions(BaseModel):
    """How the engine loads the model. Unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    context_length: int | None = Field(
        None, ge=1, description="Prompt plus output tokens of one sequence [default: the model's]."
    )
    max_concurrency: int = Field(
        8, ge=1, le=1024, description="Sequences generated at once; more requests wait."
    )
    threads: int | None = Field(
        None, ge=1, description="CPU threads of the engine [default: physical cores]."
    )
    gpu_layers: int | None = Field(
        None, ge=0, description="Layers placed on the GPU [default: as many as fit]."
    )
    embeddings: bool = Field(True, description="Serve embeddings from this model as well.")


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
    stop_sequence: tuple[str, ...] = Field(
        (), description="Text that ends generation; may be repeated."
    )
    frequency_penalty: Penalty | None = Field(
        None, description="Lowers a token by its count in prompt and output."
    )
    presence_penalty: Penalty | None = Field(
        None, description="Lowers every token that has appeared."
    )
    max_tokens: int | None = Field(None, ge=1, description="Most new tokens of a reply.")
    seed: int | None = Field(None, ge=0, description="Makes sampling repeatable.")
    prompt: str | None = Field(
        None, description="Text, or a file with the text, put before every conversation."
    )


class ModelConfig(BaseModel):
    """All settings of one served model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    load: LoadOptions = LoadOptions()
    defaults: RequestDefaults = RequestDefaults()
