"""What flows between the rooms: requests in, deltas out.

Every type is a frozen msgspec struct, so it is its own msgpack frame on the runner's socket.
This room knows no HTTP, no engine and no configuration.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct, field

FinishReason = Literal["stop", "length"]

Prompt = str | tuple[str | int, ...]
"""Text in which control tokens count, or pieces of such text and token ids, in order."""


class Message(Struct, frozen=True, omit_defaults=True):
    """One turn of a conversation, as the model's chat template sees it."""

    role: str
    content: str
    name: str | None = None


class SamplingParams(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How tokens are chosen and when they end; the neutral value of each is its default.

    Attributes:
        max_tokens: New tokens per sequence; None generates to the end of the context.
        temperature: 0 is greedy; 1 is the model's own distribution.
        top_k: Sample from the k likeliest tokens; 0 means all.
        top_p: Sample from the smallest set whose probabilities reach this sum, in (0, 1].
        min_p: Drop tokens below this share of the likeliest one's probability.
        n: Sequences generated for the prompt.
        seed: Makes sampling repeatable; sequence i of n uses seed + i.
        stop: Strings that end a sequence; the text before the earliest match is kept.
        stop_token_ids: Token ids that end a sequence, beside the model's own.
        presence_penalty: Subtracted once from the logit of every token that has appeared.
        frequency_penalty: Subtracted from a token's logit for each time it has appeared.
        repetition_penalty: Divides (multiplies, if negative) the logits of tokens that appeared.
        logit_bias: Added to the logits of these token ids, -100 to 100.
        logprobs: Alternatives reported per token; 0 reports the chosen token alone, None nothing.
        json_schema: JSON schema the text must satisfy; {} asks for any JSON value.
        grammar: Grammar in GBNF the text must match.
        ignore_eos: Go on after the model's end-of-text token (for load tests).
    """

    max_tokens: int | None = None
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    n: int = 1
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: dict[int, float] = field(default_factory=dict)
    logprobs: int | None = None
    json_schema: dict[str, Any] | None = None
    grammar: str | None = None
    ignore_eos: bool = False


class GenerateRequest(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One generation: a conversation (`messages`) or a `prompt`, never both.

    The engine door takes `prompt`; `openllm.llm` turns messages into it by the model's template.
    `adapter` names one of `LocalModel.adapters`; "" is the one of that name, if there is one.
    """

    request_id: str
    params: SamplingParams
    messages: tuple[Message, ...] = ()
    prompt: Prompt = ""
    adapter: str = ""


class TokenLogprob(Struct, frozen=True, array_like=True):
    """Natural-log probability of one token, before temperature and truncation.

    `bytes` are the token's own, so text cut inside a UTF-8 character stays exact.
    """

    token_id: int
    token: str
    bytes: tuple[int, ...]
    logprob: float
    top: tuple[TokenLogprob, ...] = ()


class Usage(Struct, frozen=True, array_like=True):
    """Tokens counted by the engine; `cached_tokens` of the prompt were reused, not read again."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


class CompletionChunk(Struct, frozen=True, array_like=True):
    """What one sequence gained in one engine step: a delta, not the text so far.

    `text` never ends in half a UTF-8 character nor in the beginning of a stop string.
    `cumulative_logprob` is 0 where the engine computes none unless asked for `logprobs`. The last
    chunk of sequence `index` carries `finish_reason` and `usage` (its own completion tokens); a
    stream that ends before every sequence had one is an error.
    """

    index: int
    text: str
    token_ids: tuple[int, ...] = ()
    cumulative_logprob: float = 0.0
    logprobs: tuple[TokenLogprob, ...] | None = None
    finish_reason: FinishReason | None = None
    usage: Usage | None = None


class EmbeddingOutput(Struct, frozen=True):
    """`vectors[i]` embeds input i: float32, unit length, native byte order, all of one size."""

    vectors: tuple[bytes, ...]
    prompt_tokens: int


ModelFormat = Literal["gguf", "safetensors", "script", "other"]
"""What a model's files are; "other" is read by an engine of the user's own alone."""


class Adapter(Struct, frozen=True, kw_only=True):
    """A LoRA adapter: for some layers of a model, two small matrices whose product is added.

    Attributes:
        name: What requests call it; "" for the one that is on where they name none.
        path: Absolute: a GGUF file, or for "safetensors" a folder in the layout of peft.
        rank: The largest of any layer; 0 where the format does not say.
        scales: What the product of each layer is multiplied by, by the layer's name in the model;
            empty where the engine finds them in the file.
        size: Bytes of its weights, as they are stored.
        tag: "name:version" in BentoML's store; "" for what is not in it.
    """

    name: str
    path: str
    format: ModelFormat
    rank: int = 0
    scales: dict[str, float] = field(default_factory=dict)
    size: int = 0
    tag: str = ""

    @property
    def label(self) -> str:
        """What messages call it."""
        return self.name or self.path


class LocalModel(Struct, frozen=True, kw_only=True):
    """A model whose files are on this machine: the name requests use, and what the files are.

    Attributes:
        path: Absolute: a file, or for "safetensors" a folder in the layout of transformers.
        source: Where it came from, "org/name" or a URL; "" for what was here already.
        revision: The commit of a model from the hub.
        tag: "name:version" in BentoML's store; "" for what is not in it.
        tokenizer: Where the tokenizer and the chat template are, if not in `path`; its weights,
            should it have any, are not looked at.
        adapters: What requests may have on top of it.
    """

    name: str
    path: str
    format: ModelFormat
    source: str = ""
    revision: str = ""
    tag: str = ""
    tokenizer: LocalModel | None = None
    adapters: tuple[Adapter, ...] = ()


class Capabilities(Struct, frozen=True, kw_only=True):
    """What a started engine offers beyond the door itself.

    Attributes:
        engine: Name of the engine, e.g. "llama.cpp".
        engine_version: Version of the engine's build, part of the system fingerprint.
        context_length: Prompt plus output tokens one sequence can hold.
        max_concurrency: Sequences generated at once; more requests wait.
        max_embedding_tokens: Longest input `embed` takes; 0 when the model cannot embed.
        chat: The model has a chat template.
        structured_output: `json_schema` and `grammar` are honoured.
        longest_token: Bytes of text that one token stands for at most; 0 where that is not known,
            or the tokenizer may leave out text.
    """

    engine: str
    engine_version: str
    context_length: int
    max_concurrency: int
    max_embedding_tokens: int = 0
    chat: bool = False
    structured_output: bool = False
    longest_token: int = 0
